"""Contract case 77, and whatever else keeps a delivery from being taken although nothing is wrong with it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

from enable_with_segment.db.event_log.records import EventLogUnavailable
from enable_with_segment.subscriptions.receiving.webhook import WebhookLimits
from tests.subscriptions.answers import message
from tests.subscriptions.broken_log import BrokenLog
from tests.subscriptions.receiver import IDENTIFY, Open, Receiver, Recorder, basic


@pytest.mark.parametrize("problem", [EventLogUnavailable("postgres://user:secret@host is down"), OSError("x"), None])
async def test_case_077_our_own_trouble_is_503_with_retry_after(on_sqlite: Open, problem: BaseException | None) -> None:
    async with on_sqlite(
        Recorder().subscription,
        event_log=BrokenLog(problem),
        webhook_limits=WebhookLimits(store_seconds=0.05),
    ) as receiver:
        key = await receiver.mint("acme")
        # Looking the key up has to succeed within the short time, so that the log is what fails.
        assert (await receiver.api_keys.look_up(key)).holder is not None
        response = await receiver.deliver(IDENTIFY, key=key)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert "secret" not in message(response)


async def test_case_077_a_key_store_that_is_down_is_503(receiver: Receiver) -> None:
    async with receiver.database.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE api_keys RENAME TO elsewhere")
    response = await receiver.deliver(IDENTIFY)
    assert response.status_code == 503
    assert "api_keys" not in message(response)


async def test_a_bug_is_500_with_an_incident_id_and_no_details(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "enable_with_segment.subscriptions.receiving.intake.check_event", lambda event: event.no_such_attribute
    )
    response = await receiver.deliver(IDENTIFY)
    assert response.status_code == 500
    told = message(response)
    assert re.search(r"\(incident [0-9a-f]{8}\)", told)
    assert "attribute" not in told
    incident = told.partition("incident ")[2].rstrip(").")
    assert incident in caplog.text


async def test_an_event_without_handler_is_501_and_the_log_names_one_once(
    on_sqlite: Open, caplog: pytest.LogCaptureFixture
) -> None:
    only_track = Recorder(types=("track",))
    async with on_sqlite(only_track.subscription) as receiver:
        with caplog.at_level(logging.WARNING, "enable_with_segment.subscriptions.receiving.intake"):
            for number in range(3):
                assert (await receiver.deliver({**IDENTIFY, "messageId": f"m-{number}"})).status_code == 501
        assert caplog.text.count('@subscription.on("identify")') == 1
        assert await receiver.records() == []


async def test_a_sender_that_hangs_up_gets_no_answer_and_leaves_nothing(receiver: Receiver) -> None:
    sent: list[object] = []
    messages: Iterator[dict[str, object]] = iter(
        [{"type": "http.request", "body": b'{"type":', "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> dict[str, object]:
        return next(messages)

    async def send(message: object) -> None:
        sent.append(message)

    headers = [(b"authorization", basic(receiver.key).encode())]
    scope = {"type": "http", "method": "POST", "path": "/acme-crm", "root_path": "", "headers": headers}
    await receiver.webhook(scope, receive, send)
    assert sent == []
    assert await receiver.records() == []
