"""One measurement from its beginning to its end, early or not: what it says on its way, its files, its signals.

SIGTERM, Ctrl-C and a terminal that is closed end a measurement as an exception would. So whatever it started in a
``with`` block or an ``ExitStack`` ends with it, and its files go.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN_SECONDS = 0.01


class Interrupted(KeyboardInterrupt):
    """A signal asks for the end. Event loops let this kind of exception through, whatever they are doing.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Held:
    depth = 0
    waiting: Interrupted | None = None


def tell(text: str) -> None:
    """Say how far it is, to whoever watches; results go to the standard output."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def interruptible() -> Iterator[None]:
    """End the block when a signal asks for it; of several, the first one counts.

    Raises:
        Interrupted: inside of the block.
        SystemExit: after it, with the status that shells give to what a signal ended.
    """
    hook = sys.unraisablehook
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    before[signal.SIGALRM] = signal.getsignal(signal.SIGALRM)

    def say_again(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, Interrupted):
            interrupted = Interrupted(unraisable.exc_value.number)
            signal.signal(signal.SIGALRM, lambda _number, _frame: _raise(interrupted))
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
        else:
            hook(unraisable)

    # Where nothing can be raised (while a process forks, in a destructor), Python drops what is raised all the same.
    sys.unraisablehook = say_again
    try:
        yield
    except Interrupted as interrupted:
        tell(f"ended early by {interrupted}; what it had started is stopped, and its files are gone")
        raise SystemExit(128 + interrupted.number) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Let a signal wait for the end of the block: what starts in there is not known yet to whoever would stop it."""
    _Held.depth += 1
    try:
        yield
    finally:
        _Held.depth -= 1
        if not _Held.depth and _Held.waiting is not None:
            waiting, _Held.waiting = _Held.waiting, None
            raise waiting


@contextmanager
def scratch(parent: Path | None) -> Iterator[Path]:
    """Make a folder that goes when the block ends.

    Args:
        parent: made where it is missing; the system's own place for such folders where it is ``None``.
    """
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench", dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


def _interrupt(number: int, _frame: FrameType | None) -> None:
    for one in _SIGNALS:  # stopping is not to be stopped half-way
        signal.signal(one, signal.SIG_IGN)
    _raise(Interrupted(number))


def _raise(interrupted: Interrupted) -> None:
    if not _Held.depth:
        raise interrupted
    _Held.waiting = interrupted
