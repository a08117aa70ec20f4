"""A partner's function that is told how an install's connection stands, called with the arguments it names."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from enable_with_segment.components.errors import HandlerInvalid
from enable_with_segment.components.handler import HandlerFunction, is_async
from enable_with_segment.components.install_context import InstallContext


class StateChange(StrEnum):
    """A change of an install's connection state that a function can be registered for."""

    CONNECTED = "connected"
    FAILING = "failing"
    RECOVERED = "recovered"
    DRIFTED = "drifted"
    REVOKED = "revoked"


_ARGUMENTS = ("install", "change", "reason", "detail")


@dataclass(frozen=True, slots=True)
class InstallFunction:
    """An async function registered for some changes, made by :func:`make_install_function`.

    ``name`` is the function's own.
    """

    name: str
    function: HandlerFunction
    changes: frozenset[StateChange]
    arguments: frozenset[str]

    async def call(
        self, install: InstallContext, change: StateChange, *, reason: str | None, detail: str | None
    ) -> None:
        """Call it with the arguments it asks for."""
        offered = {"install": install, "change": change.value, "reason": reason, "detail": detail}
        await self.function(**{name: value for name, value in offered.items() if name in self.arguments})


def make_install_function(function: HandlerFunction, *, changes: Collection[str]) -> InstallFunction:
    """Check a function and the changes it is registered for; no changes means all.

    Raises:
        HandlerInvalid: an unknown change or argument, or a function that is not async.
    """
    name = getattr(function, "__name__", function.__class__.__name__)
    unknown = sorted(set(changes) - set(StateChange))
    if unknown:
        raise HandlerInvalid(f"'{name}': there is no change '{unknown[0]}'; there are {', '.join(StateChange)}")
    if not is_async(function):
        raise HandlerInvalid(f"'{name}' has to be async: write 'async def {name}(...)'")
    asked = inspect.signature(function).parameters
    for parameter in asked:
        if parameter not in _ARGUMENTS:
            raise HandlerInvalid(f"'{name}' asks for '{parameter}'; it can have {', '.join(_ARGUMENTS)}")
    wanted = frozenset(map(StateChange, changes)) or frozenset(StateChange)
    return InstallFunction(name, function, wanted, frozenset(asked))
