"""What was answered 202 is on the disk, not only on its way there: it outlives a power cut in that moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.records import EventFilter
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from enable_with_segment.subscriptions.observer import Observer
from tests.crash.power_cut import Files, VolatileDisk, restore
from tests.db.event_log.events import SMALL, new_event
from tests.subscriptions.receiver import Recorder, open_receiver, track
from tests.subscriptions.short_sender import offer
from tests.subscriptions.signed_sender import Sender

_SEGMENT_LOG = f"events.db.{1:015}-wal"


@pytest.fixture
def disk() -> Iterator[VolatileDisk]:
    disk = VolatileDisk()
    yield disk
    disk.unregister()


class PowerCuts(Observer):
    """Cuts the power at each answer: keeps what the disk holds just then."""

    def __init__(self, disk: VolatileDisk, folder: Path) -> None:
        self._disk = disk
        self._folder = folder
        self.left: list[Files] = []

    def answered(self, component: str, status: int) -> None:
        assert (component, status) == ("acme-crm", 202)
        self.left.append(self._disk.kept(self._folder))


async def test_wh_08_what_was_answered_at_any_door_outlives_a_power_cut(
    disk: VolatileDisk, tmp_path: Path, encryption: EncryptionKeys
) -> None:
    (folder := tmp_path / "live").mkdir()
    cuts = PowerCuts(disk, folder)
    url = f"sqlite+aiosqlite:///{folder}/control.db"
    async with open_receiver(url, encryption, Recorder().subscription, observer=cuts) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        ids: list[str] = []
        for number in range(3):
            assert (await receiver.deliver(track(f"plain-{number}"))).status_code == 202
            assert (await sender.send(track(f"signed-{number}"))).status_code == 202
            (short,) = await offer(receiver, f"short-{number}")
            assert (await short).status == 202
            ids += [f"{way}-{number}" for way in ("plain", "signed", "short")]
            # Results need not wait for the disk; the next event has to, all the same.
            await receiver.dispatcher.run_due()
        assert (await receiver.log.prove(ids)).unhandled == ()
    assert len(cuts.left) == len(ids)
    for number, left in enumerate(cuts.left):
        log = open_event_log(f"sqlite+aiosqlite:///{restore(left, tmp_path / str(number))}/events.db")
        assert (await log.prove(ids[: number + 1])).missing == ()
        await log.close()


async def test_what_was_stored_outlives_a_power_cut_in_whatever_segment_it_is(
    disk: VolatileDisk, tmp_path: Path
) -> None:
    (folder := tmp_path / "live").mkdir()
    log = SqliteEventLog(folder / "events.db", limits=SMALL)
    ids: list[str] = []
    for number in range(12):
        ids += (f"m-{number}", f"n-{number}")
        await asyncio.gather(*(log.append(new_event(message_id)) for message_id in ids[-2:]))
        opened = SqliteEventLog(restore(disk.kept(folder), tmp_path / str(number)) / "events.db", limits=SMALL)
        assert (await opened.prove(ids)).missing == ()
        await opened.close()
    await log.close()
    assert len(list(folder.glob("events.db.*"))) > 2


# The driver has nobody to tell when a flush fails while a file is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("failing", [_SEGMENT_LOG, "events.db"], ids=["the newest events'", "any"])
@pytest.mark.parametrize("somebody_reads", [False, True], ids=["alone", "beside a reader"])
async def test_a_flush_that_fails_is_refused_and_the_log_comes_back_by_itself(
    disk: VolatileDisk, tmp_path: Path, encryption: EncryptionKeys, failing: str, *, somebody_reads: bool
) -> None:
    (folder := tmp_path / "live").mkdir()
    url = f"sqlite+aiosqlite:///{folder}/control.db"
    recorder = Recorder()
    async with open_receiver(url, encryption, recorder.subscription) as receiver:
        assert (await receiver.deliver(track("before"))).status_code == 202
        reader = open_event_log(f"sqlite+aiosqlite:///{folder}/events.db")
        if somebody_reads:
            assert (await reader.prove(["before"])).missing == ()
        for number in range(3):
            key = await receiver.mint(f"account-{number}")
            disk.failing = failing
            for _ in range(2):
                refused = await receiver.deliver(track(f"m-{number}"), key=key)
                assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
            disk.failing = ""
            if somebody_reads:
                assert (await reader.prove(["before"])).missing == ()
            assert (await receiver.deliver(track(f"m-{number}"), key=key)).status_code == 202
            left = disk.kept(folder)
            opened = open_event_log(f"sqlite+aiosqlite:///{restore(left, tmp_path / str(number))}/events.db")
            found = {record.message_id: record.account for record in await opened.find(EventFilter())}
            assert found == {"before": "acme", **{f"m-{n}": f"account-{n}" for n in range(number + 1)}}
            await opened.close()
        await reader.close()
        assert disk.failed >= 6
        await receiver.dispatcher.run_due()
        names = ["before", "m-0", "m-1", "m-2"]
        assert sorted(str(event.message_id) for event in recorder.events) == names
        assert [record.message_id for record in await receiver.records()] == names
