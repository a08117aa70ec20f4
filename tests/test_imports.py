"""No module imports, in a circle, itself. Imports for types alone and those within functions count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import grimp


def circles(modules: Iterable[str], imported_by: Callable[[str], Iterable[str]]) -> list[set[str]]:
    """Return the modules that reach each other, a set for each circle (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        index[module] = lowest[module] = len(index)
        stack.append(module)
        for other in imported_by(module):
            if other not in index:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], index[other])
        if lowest[module] == index[module]:
            position = stack.index(module)
            circle = set(stack[position:])
            del stack[position:]
            if len(circle) > 1:
                found.append(circle)

    for module in sorted(modules):
        if module not in index:
            visit(module)
    return found


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = grimp.build_graph("enable_with_segment", exclude_type_checking_imports=False, cache_dir=None)
    assert len(graph.modules) > 300
    assert circles(graph.modules, graph.find_modules_directly_imported_by) == []


def test_a_circle_is_found_with_every_module_of_it() -> None:
    graph: Mapping[str, list[str]] = {"a": ["b", "x"], "b": ["c"], "c": ["a", "d"], "d": ["e"], "e": ["d"], "x": []}
    assert circles(graph, graph.__getitem__) == [{"d", "e"}, {"a", "b", "c"}]


def test_imports_for_types_are_seen() -> None:
    graph = grimp.build_graph("enable_with_segment", exclude_type_checking_imports=False, cache_dir=None)
    root = "enable_with_segment"
    assert f"{root}.components.subscription" in graph.find_modules_directly_imported_by(root)
