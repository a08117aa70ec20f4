"""A handler: which events it wants, and how it is called with the arguments it asks for by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from enable_with_segment.components.errors import HandlerInvalid
from enable_with_segment.components.event import EVENT_TYPES, Event
from enable_with_segment.components.install_context import InstallContext

HandlerFunction: TypeAlias = Callable[..., Awaitable[object]]

_MAX_BATCH = 10_000


@dataclass(frozen=True, slots=True)
class Handler:
    """An async function registered for a type of event, made by :func:`make_handler`.

    ``key`` names it in the event log, where its outcome for each event is kept: a handler that succeeded is not
    called again when another one of the same event has to be.
    """

    key: str
    function: HandlerFunction
    type: str
    event: str | None
    batch: int | None
    arguments: frozenset[str]
    ordered: bool = False
    """Whether the events of one person come one at a time, in the order in which they were received."""
    of_sink: bool = False
    """Whether it is a sink's and writes where the sink does."""

    def wants(self, event: Event) -> bool:
        """Tell whether this event goes to this handler; event names match in any case (contract 6.8)."""
        return self.wants_name(event.type, event.event)

    def wants_name(self, type: str, event: str | None) -> bool:
        """Tell whether events of this type, and of this name if they are track events, go to this handler."""
        if type != self.type:
            return False
        return self.event is None or (event or "").strip().casefold() == self.event.strip().casefold()

    def is_called(self, name: str) -> bool:
        """Tell whether an operator means this handler: by its key, or by the function's name alone."""
        return name in (self.key, self.key.partition(" (")[0])

    async def call(self, event: Event, install: InstallContext, settings: Mapping[str, Any]) -> object:
        """Call it with one event."""
        return await self.function(**self._pick(event=event, install=install, settings=settings))

    async def call_batch(self, events: Sequence[Event], install: InstallContext, settings: Mapping[str, Any]) -> object:
        """Call it with several events of one install."""
        return await self.function(**self._pick(events=list(events), install=install, settings=settings))

    def _pick(self, **offered: object) -> dict[str, object]:
        return {name: value for name, value in offered.items() if name in self.arguments}


def make_handler(
    function: HandlerFunction,
    *,
    type: str,
    event: str | None,
    batch: int | None,
    name: str | None = None,
    ordered: bool = False,
    of_sink: bool = False,
) -> Handler:
    """Check a function and its conditions. It goes by its own name when it is given no other.

    Raises:
        HandlerInvalid: an unknown type or argument, a function that is not async, a batch size out of range.
    """
    name = name or getattr(function, "__name__", None) or getattr(getattr(function, "func", None), "__name__", None)
    name = name or function.__class__.__name__
    if type not in EVENT_TYPES:
        raise HandlerInvalid(f"handler '{name}': there is no event type '{type}'; there are {', '.join(EVENT_TYPES)}")
    if event is not None and (type != "track" or not event.strip()):
        raise HandlerInvalid(f"handler '{name}': event=... names a track event; '{type}' events are not chosen by name")
    if batch is not None and not 1 <= batch <= _MAX_BATCH:
        raise HandlerInvalid(f"handler '{name}': batch has to be between 1 and {_MAX_BATCH}")
    if ordered and batch is not None:
        raise HandlerInvalid(f"handler '{name}': ordered=True hands over one event at a time, so it takes no batch")
    if not is_async(function):
        raise HandlerInvalid(
            f"handler '{name}' has to be async: write 'async def {name}(...)', and put blocking work into "
            "'await asyncio.to_thread(...)'"
        )
    condition = type if event is None else f"{type} {event.strip()}"
    return Handler(
        key=f"{name} ({condition})",
        function=function,
        type=type,
        event=event,
        batch=batch,
        arguments=_arguments(function, name, batched=batch is not None),
        ordered=ordered,
        of_sink=of_sink,
    )


def _arguments(function: HandlerFunction, name: str, *, batched: bool) -> frozenset[str]:
    subject, other = ("events", "event") if batched else ("event", "events")
    valid = (subject, "install", "settings")
    parameters = inspect.signature(function).parameters.values()
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise HandlerInvalid(
                f"handler '{name}': '{parameter}' cannot be filled in; arguments are given by name: {', '.join(valid)}"
            )
        if parameter.name not in valid:
            hint = ""
            if parameter.name == other:
                hint = f" ('{other}' is for handlers {'without' if batched else 'with'} batch=...)"
            raise HandlerInvalid(
                f"handler '{name}' asks for '{parameter.name}'{hint}; the arguments it can have are {', '.join(valid)}"
            )
    return frozenset(parameter.name for parameter in parameters)


def is_async(function: object) -> bool:
    """Tell whether calling this gives something to await."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
