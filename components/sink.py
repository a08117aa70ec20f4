"""What a sink is. Anything with these two attributes and three methods can be one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from enable_with_segment.components.event import Event
from enable_with_segment.components.install_context import InstallContext


class Sink(Protocol):
    """Takes events of one install at a time, at least once and in any order.

    ``write`` and ``erase`` answer like any batch handler: return ``None``, or one entry for each event (``None`` or
    an exception); raise to speak for all of them. ``RetryError``, ``InvalidEventPayload`` and the others mean what
    they mean for handlers (``components.errors``).

    A sink may have ``always``, a tuple of event types that it gets whatever it was asked to take, as it always gets
    deletions: one that erases what was merged into a person has to see ``alias`` events.
    """

    @property
    def name(self) -> str:
        """Names the sink in the event log; it must not change while events wait."""
        ...

    @property
    def batch(self) -> int:
        """The most events in one call."""
        ...

    async def write(self, events: Sequence[Event], install: InstallContext) -> object:
        """Store events, and return once they are safe."""
        ...

    async def erase(self, events: Sequence[Event], install: InstallContext) -> object:
        """Erase the people that ``delete`` events name, under merged ids too (contract 7.1, case 107)."""
        ...

    async def aclose(self) -> None:
        """Let go of connections and files."""
        ...
