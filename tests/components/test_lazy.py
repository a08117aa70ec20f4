"""A lazy attribute is worked out once, when it is first asked for."""

from __future__ import annotations

from enable_with_segment.components.lazy import lazy


class Thing:
    """Counts how often it works."""

    def __init__(self) -> None:
        self.worked = 0

    @lazy
    def answer(self) -> int:
        """The answer."""
        self.worked += 1
        return 42


def test_it_is_worked_out_once_for_each_object() -> None:
    one, other = Thing(), Thing()
    assert one.worked == 0
    assert (one.answer, one.answer, one.worked) == (42, 42, 1)
    assert other.worked == 0
    assert Thing.answer.__doc__ == "The answer."
