"""Functions of the partner's: whatever they raise and however they hang, the caller goes on, and knows which it was."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from enable_with_segment.components.partner_call import PartnerFunctionFailed, PartnerThreads, call_partner


class PanicException(BaseException):
    """What a library written in Rust raises."""


def _exits() -> None:
    sys.exit(3)


def _raiser(error: BaseException) -> Callable[[], None]:
    def raises() -> None:
        raise error

    return raises


ENDINGS = {
    "SystemExit": _exits,
    "ValueError": _raiser(ValueError("x")),
    "PanicException": _raiser(PanicException()),
    "KeyboardInterrupt": _raiser(KeyboardInterrupt()),
    "GeneratorExit": _raiser(GeneratorExit()),
    "CancelledError": _raiser(asyncio.CancelledError()),
    "BaseExceptionGroup": _raiser(BaseExceptionGroup("several", [PanicException()])),
}


@pytest.mark.parametrize("name", list(ENDINGS))
async def test_whatever_a_function_raises_is_one_error_that_names_it(name: str) -> None:
    ends = ENDINGS[name]

    async def function() -> None:
        await asyncio.sleep(0)
        ends()

    with pytest.raises(PartnerFunctionFailed, match=f"^the hook raised {name}$") as failed:
        await call_partner("the hook", function, seconds=5)
    assert type(failed.value.__cause__).__name__ == name
    with pytest.raises(PartnerFunctionFailed, match=f"^the hook raised {name}$"):
        await PartnerThreads("the hook", seconds=5).call(ends)


async def test_what_a_function_returns_comes_back() -> None:
    async def function() -> str:
        return "acct_42"

    assert await call_partner("the hook", function, seconds=5) == "acct_42"
    assert await PartnerThreads("the hook", seconds=5).call(threading.get_ident) != threading.get_ident()


async def test_a_function_that_hangs_is_cut_off() -> None:
    ended = asyncio.Event()

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(PartnerFunctionFailed, match=r"^the hook took longer than 0\.01 s$"):
        await call_partner("the hook", hangs, seconds=0.01)
    assert ended.is_set()


async def test_a_function_that_ignores_its_cancellation_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()

    with pytest.raises(PartnerFunctionFailed, match="took longer"):
        await call_partner("the hook", stubborn, seconds=0.01)
    assert "the hook does not end when it is cancelled" in caplog.text
    release.set()


async def test_the_caller_can_be_cancelled() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def hangs() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    caller = asyncio.create_task(call_partner("the hook", hangs, seconds=60))
    await began.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await ended.wait()


async def test_a_plain_function_that_hangs_is_left_in_its_thread_and_stuck_threads_are_bounded() -> None:
    release = threading.Event()
    threads = PartnerThreads("API_KEY_HOOK", seconds=0.01)
    for _ in range(8):
        with pytest.raises(PartnerFunctionFailed, match="took longer"):
            await threads.call(lambda: release.wait(60))
    with pytest.raises(PartnerFunctionFailed, match="was not called: 8 earlier calls have not ended"):
        await threads.call(lambda: None)
    release.set()
    while True:
        with suppress(PartnerFunctionFailed):
            assert await threads.call(lambda: "made") == "made"
            break
        await asyncio.sleep(0.01)
