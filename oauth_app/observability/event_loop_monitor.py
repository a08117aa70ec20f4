"""Says who holds up the event loop: a handler that waits without ``await`` makes every delivery wait as well.

Nothing can cut such a call off, and Segment gives up after five seconds (contract 5.7). So a thread looks from outside
whether the loop still comes round, and names the line that it stands at.
"""

from __future__ import annotations

import asyncio
import logging
import site
import sys
import sysconfig
import threading
import time
from types import FrameType

logger = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 0.25
_LIBRARIES = tuple(
    folder
    for folder in {*site.getsitepackages(), sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), "<frozen"}
    if folder
)


class EventLoopMonitor:
    """A job that watches the event loop it runs in.

    Args:
        seconds: for how long one step of the loop may take before it is told.
    """

    def __init__(self, *, seconds: float = 1.0) -> None:
        self._seconds = seconds
        self._came_round = time.monotonic()

    async def run(self) -> None:
        """Watch until this is cancelled."""
        stop = threading.Event()
        self._came_round = time.monotonic()
        watching = threading.Thread(
            target=self._watch, args=(threading.get_ident(), stop), name="loop watch", daemon=True
        )
        watching.start()
        try:
            while True:
                self._came_round = time.monotonic()
                await asyncio.sleep(_LOOK_EVERY_SECONDS)
        finally:
            stop.set()

    def _watch(self, loops_thread: int, stop: threading.Event) -> None:
        held_up_at = ""
        looked = time.monotonic()
        while not stop.wait(_LOOK_EVERY_SECONDS):
            now, before, came_round = time.monotonic(), looked, self._came_round
            looked = now
            if now - came_round < self._seconds + _LOOK_EVERY_SECONDS:
                if held_up_at:
                    logger.warning("The event loop goes on after it was held up at %s", held_up_at)
                held_up_at = ""
            elif (
                not held_up_at and now - before < self._seconds + _LOOK_EVERY_SECONDS
            ):  # or the whole process stood still
                frame = sys._current_frames().get(loops_thread)
                held_up_at = place_of(frame)
                logger.warning(
                    "The event loop is held up for %.1f s at %s: all deliveries and handlers wait for that. If it is a"
                    " handler of yours, use an async client there, or await asyncio.to_thread(...)",
                    now - came_round,
                    held_up_at,
                )


def place_of(frame: FrameType | None) -> str:
    """Name the innermost line that is no library's, as ``file:line in function``; the innermost if there is none."""
    innermost = frame
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_LIBRARIES):
            return _name(frame)
        frame = frame.f_back
    return "an unknown place" if innermost is None else _name(innermost)


def _name(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
