"""Whoever waits for what becomes of something that was submitted."""

from __future__ import annotations

from typing import Protocol, TypeVar

_Result_contra = TypeVar("_Result_contra", contravariant=True)


class Waiter(Protocol[_Result_contra]):
    """Told once how it went. An ``asyncio.Future`` is one; what needs no task to wait can be one at less cost.

    None of its methods raises, and none waits: others are told after it.
    """

    def done(self) -> bool:
        """Tell whether nobody waits any more; then nothing need be done."""
        ...

    def set_result(self, result: _Result_contra, /) -> object:
        """Take the outcome."""
        ...

    def set_exception(self, error: Exception, /) -> object:
        """Take what was in the way."""
        ...

    def cancel(self) -> object:
        """Take note that there will be no outcome."""
        ...
