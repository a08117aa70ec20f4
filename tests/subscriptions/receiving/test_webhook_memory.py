"""A delivery that was not taken leaves nothing in memory: its headers carry an API key."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import apsw
import pytest

from enable_with_segment.db.event_log.records import EventLogUnavailable
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from enable_with_segment.subscriptions.receiving import answers
from enable_with_segment.subscriptions.receiving.exchange import Scope
from enable_with_segment.subscriptions.receiving.webhook import WebhookLimits
from tests.subscriptions.broken_log import BrokenLog
from tests.subscriptions.receiver import IDENTIFY, Open, Receiver, Recorder, basic

BODY = json.dumps(IDENTIFY).encode()


class RawHeaders(list[tuple[bytes, bytes]]):
    """The headers of a request, which can be asked whether they are still there."""


class FailingLog(BrokenLog):
    """Every append fails with an error of its own."""

    def __init__(self) -> None:
        super().__init__(None)

    async def append(self, event: object) -> Any:  # noqa: ARG002  it never gets that far
        raise EventLogUnavailable("away") from OSError("away")


@pytest.fixture(autouse=True)
def _without_collector() -> Iterator[None]:
    """What only the collector finds may stay for as long as little happens."""
    gc.disable()
    yield
    gc.enable()


async def deliver(
    receiver: Receiver, *, at_once: int = 1, key: str | None = None, body: bytes | None = BODY
) -> list[int]:
    """Deliver straight to the webhook; returns the statuses, once the headers are no longer in memory.

    Args:
        body: ``None`` never arrives.

    Raises:
        TimeoutError: the headers stay there.
    """
    credentials = basic(key or receiver.key).encode()
    ended = await asyncio.gather(*(_deliver(receiver, credentials, body) for _ in range(at_once)))
    async with asyncio.timeout(10):
        while any(headers() is not None for _, headers in ended):  # noqa: ASYNC110  a thread may let go last
            await asyncio.sleep(0.001)
    return [status for status, _ in ended]


async def _deliver(receiver: Receiver, credentials: bytes, body: bytes | None) -> tuple[int, weakref.ref[RawHeaders]]:
    headers = RawHeaders([(b"authorization", credentials)])
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        if body is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    scope: Scope = {"type": "http", "method": "POST", "path": "/acme-crm", "root_path": "", "headers": headers}
    await receiver.webhook(scope, receive, send)
    (status,) = statuses
    return status, weakref.ref(headers)


async def test_what_is_taken_or_refused_leaves_no_key_in_memory(receiver: Receiver) -> None:
    assert await deliver(receiver) == [202]
    assert await deliver(receiver, body=b"{") == [400]
    assert await deliver(receiver, key="ews_unknown") == [401]


@pytest.mark.parametrize("broken", [FailingLog, lambda: BrokenLog(None)], ids=["fails", "hangs"])
async def test_an_event_log_in_trouble_leaves_no_key_in_memory(
    on_sqlite: Open, broken: Callable[[], BrokenLog]
) -> None:
    async with on_sqlite(
        Recorder().subscription, event_log=broken(), webhook_limits=WebhookLimits(store_seconds=0.05)
    ) as receiver:
        assert (await receiver.api_keys.look_up(receiver.key)).holder is not None
        assert await deliver(receiver) == [503]


async def test_what_an_event_log_is_made_of_in_trouble_leaves_no_key_in_memory(
    stored_receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise apsw.IOError("disk I/O error")

    if isinstance(stored_receiver.log, SqliteEventLog):
        monkeypatch.setattr(stored_receiver.log, "_open_and", broken)
    else:
        async with stored_receiver.database.engine.begin() as connection:
            await connection.exec_driver_sql("ALTER TABLE message_keys RENAME TO elsewhere")
    for _ in range(2):
        assert await deliver(stored_receiver) == [503]
        assert await deliver(stored_receiver, at_once=3) == [503] * 3


async def test_a_key_store_in_trouble_leaves_no_key_in_memory(stored_receiver: Receiver) -> None:
    async with stored_receiver.database.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE api_keys RENAME TO elsewhere")
    assert await deliver(stored_receiver) == [503]


async def test_a_body_that_comes_too_late_leaves_no_key_in_memory(on_sqlite: Open) -> None:
    async with on_sqlite(Recorder().subscription, webhook_limits=WebhookLimits(body_seconds=0.05)) as receiver:
        assert await deliver(receiver, body=None) == [503]


async def test_a_bug_leaves_no_key_in_memory(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(
        logging.CRITICAL, answers.__name__
    )  # what pytest keeps of a log record is the error, with all of its frames
    monkeypatch.setattr(
        "enable_with_segment.subscriptions.receiving.intake.check_event", lambda event: event.no_such_attribute
    )
    assert await deliver(receiver) == [500]
