"""A sink in a running service: events reach it through the event log, and deletions always do."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from enable_with_segment import (
    Event,
    HandlerInvalid,
    InstallContext,
    JsonLinesSink,
    RetryError,
    Sink,
    SqlSink,
    Subscription,
)
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.event_log.states import EventState
from tests.subscriptions.receiver import open_receiver


class Shelf:
    """The smallest sink one can write."""

    name = "shelf"
    batch = 10

    def __init__(self) -> None:
        self.written: list[str | None] = []
        self.erased: list[str | None] = []
        self.down = False

    async def write(self, events: Sequence[Event], install: InstallContext) -> None:
        if self.down:
            raise RetryError("the shelf is down")
        self.written += [f"{install.account}/{event.message_id}" for event in events]

    async def erase(self, events: Sequence[Event], install: InstallContext) -> None:  # noqa: ARG002
        self.erased += [event.user_id for event in events]

    async def aclose(self) -> None:
        pass


async def test_events_reach_sinks_and_handlers_each_on_their_own(tmp_path: Path, encryption: EncryptionKeys) -> None:
    crm, shelf, seen = Subscription("acme-crm"), Shelf(), []

    @crm.on("track")
    async def handle(event: Event) -> None:
        seen.append(event.message_id)

    crm.to(shelf, types=["track"])
    crm.to(JsonLinesSink(tmp_path / "files"))
    async with open_receiver(f"sqlite+aiosqlite:///{tmp_path}/control.db", encryption, crm) as receiver:
        shelf.down = True
        track = {"type": "track", "event": "Paid", "userId": "u-1", "messageId": "m-1"}
        assert (await receiver.deliver(track)).status_code == 202
        assert (await receiver.deliver({"type": "page", "userId": "u-1", "messageId": "m-2"})).status_code == 202
        await receiver.dispatcher.run_due()
        assert (await receiver.only(message_id="m-1")).state is EventState.PENDING
        shelf.down = False
        receiver.clock.advance(hours=1)
        await receiver.dispatcher.run_due()
        assert (await receiver.only(message_id="m-1")).state is EventState.HANDLED
        assert seen == ["m-1"]
        assert shelf.written == ["acme/m-1"]
        (file,) = (tmp_path / "files").glob("*.jsonl")
        lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        assert [line["message_id"] for line in lines] == ["m-1", "m-2"]
        # The shelf asked for track events alone; the deletion reaches it all the same.
        deletion = {"type": "delete", "userId": "u-1", "messageId": "d-1"}
        assert (await receiver.deliver(deletion)).status_code == 202
        await receiver.dispatcher.run_due()
        assert shelf.erased == ["u-1"]
        assert not list((tmp_path / "files").glob("*.jsonl"))


async def test_case_107_a_sink_of_track_events_alone_erases_merged_ids(
    tmp_path: Path, encryption: EncryptionKeys
) -> None:
    crm = Subscription("acme-crm")
    crm.to(JsonLinesSink(tmp_path / "files"), types=["track"])
    crm.to(SqlSink(f"sqlite+aiosqlite:///{tmp_path}/sink.db"), types=["track"])
    async with open_receiver(f"sqlite+aiosqlite:///{tmp_path}/control.db", encryption, crm) as receiver:
        for number, event in enumerate(
            [
                {"type": "track", "event": "Paid", "anonymousId": "device-1"},
                {"type": "alias", "userId": "u-1", "previousId": "device-1"},
                {"type": "track", "event": "Paid", "userId": "u-2"},
            ]
        ):
            assert (await receiver.deliver({**event, "messageId": f"m-{number}"})).status_code == 202
        assert (await receiver.deliver({"type": "page", "userId": "u-2"})).status_code == 501
        await receiver.dispatcher.run_due()
        receiver.clock.advance(seconds=1)
        await receiver.deliver({"type": "delete", "userId": "u-1", "messageId": "d-1"})
        await receiver.dispatcher.run_due()
        for sink in crm.sinks:
            await sink.aclose()
    (file,) = (tmp_path / "files").glob("*.jsonl")
    assert b"device-1" not in file.read_bytes()
    assert b'"u-2"' in file.read_bytes()
    with sqlite3.connect(tmp_path / "sink.db") as database:
        assert database.execute("SELECT user_id, anonymous_id FROM events").fetchall() == [("u-2", None)]
    database.close()


def test_a_name_can_be_used_once_and_types_have_to_exist() -> None:
    crm, shelf = Subscription("acme-crm"), Shelf()
    crm.to(shelf, types=["track"])
    with pytest.raises(HandlerInvalid, match="has a handler 'shelf"):
        crm.to(Shelf(), types=["track"])
    with pytest.raises(HandlerInvalid, match="no event type"):
        Subscription("other").to(shelf, types=["purchase"])
    used: tuple[Sink, ...] = crm.sinks
    assert used == (shelf,)
    assert crm.handled_types == {"track", "delete"}
