"""Security statements WH-8 to WH-12, at both doors: what an answer promises, to whom, and what it gives away."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enable_with_segment import Event, InstallContext, InvalidEventPayload, Setting, Subscription
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.event_log.group_commit import Waiter
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.postgresql.log import SqlEventLog
from enable_with_segment.db.event_log.records import Appended, EventLogUnavailable, NewEvent
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.http_client import httpx
from tests.subscriptions.answers import message
from tests.subscriptions.broken_log import BrokenLog
from tests.subscriptions.receiver import IDENTIFY, Open, Receiver, Recorder, open_receiver
from tests.subscriptions.short_sender import offer
from tests.subscriptions.signed_sender import Sender, encode


class GatedLog(SqlEventLog):
    """An event log that commits when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.commit = asyncio.Event()

    async def append(self, event: NewEvent) -> Appended:  # noqa: ARG002  what is asked is enough to know
        self.asked.set()
        await self.commit.wait()
        return Appended(1)

    def append_for(self, waiter: Waiter[Appended], event: NewEvent) -> None:
        async def tell() -> None:
            waiter.set_result(await self.append(event))

        self.telling = asyncio.create_task(tell())


async def test_wh_08_nothing_is_answered_before_the_commit(on_sqlite: Open) -> None:
    log = GatedLog()
    async with on_sqlite(Recorder().subscription, event_log=log) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        for deliver in (receiver.deliver, sender.send):
            log.asked.clear()
            log.commit.clear()
            answering = asyncio.create_task(deliver(IDENTIFY))
            await log.asked.wait()
            for _ in range(20):
                await asyncio.sleep(0)
            assert not answering.done()
            log.commit.set()
            assert (await answering).status_code == 202


async def test_wh_08_nothing_is_answered_before_the_commit_on_the_fast_path(on_sqlite: Open) -> None:
    log = GatedLog()
    async with on_sqlite(Recorder().subscription, event_log=log) as receiver:
        (answer,) = await offer(receiver, "m-1")
        await log.asked.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not answer.done()
        log.commit.set()
        assert (await answer).status == 202


async def test_wh_08_what_was_answered_is_there_for_whoever_opens_the_log_next(tmp_path: Path, on_sqlite: Open) -> None:
    async with on_sqlite(Recorder().subscription) as receiver:
        assert (await receiver.deliver(IDENTIFY)).status_code == 202
        other = open_event_log(f"sqlite+aiosqlite:///{tmp_path}/events.db")
        try:
            assert (await other.prove(["m-1", "m-2"])).missing == ("m-2",)
        finally:
            await other.close()


async def test_wh_09_the_same_message_id_has_one_effect_for_each_install(
    receiver: Receiver, recorder: Recorder
) -> None:
    other = await receiver.mint("acme", install_id="ins_other")
    for _ in range(3):
        assert (await receiver.deliver(IDENTIFY)).status_code == 202
        assert (await receiver.deliver(IDENTIFY, key=other)).status_code == 202
    await receiver.dispatcher.run_due()
    assert len(recorder.events) == 2
    assert sorted(str(install.install_id) for install in recorder.installs) == ["None", "ins_other"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["identify", "track"])), min_size=1, max_size=40))
async def test_wh_10_an_event_never_meets_another_installs_context(
    tmp_path_factory: pytest.TempPathFactory, encryption: EncryptionKeys, sent: list[tuple[int, str]]
) -> None:
    crm, met = Subscription("acme-crm"), list[tuple[str | None, InstallContext]]()

    @crm.on("identify")
    async def one(event: Event, install: InstallContext) -> None:
        met.append((event.user_id, install))

    @crm.on("track", batch=10)
    async def many(events: list[Event], install: InstallContext) -> None:
        met.extend((event.user_id, install) for event in events)

    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('wh10')}/control.db"
    async with open_receiver(url, encryption, crm) as receiver:
        plain = [await receiver.mint(f"account-{n}", install_id=f"ins_{n}") for n in range(3)]
        signed = [Sender(receiver, *await receiver.mint_signed(f"account-{n}")) for n in range(3, 6)]
        for number, (whose, event_type) in enumerate(sent):
            event = {"type": event_type, "event": "Paid", "userId": f"account-{whose}", "messageId": f"m-{number % 7}"}
            if whose < 3:
                assert (await receiver.deliver(event, key=plain[whose])).status_code == 202
            else:
                assert (await signed[whose - 3].send([event])).status_code == 202
        await receiver.dispatcher.run_due()
    assert met
    assert all(install.account == user_id for user_id, install in met)
    assert {install.install_id for user_id, install in met if user_id == "account-1"} <= {"ins_1"}


async def test_wh_11_wh_12_each_kind_of_failure_has_its_status_and_tells_no_internals(
    tmp_path: Path, encryption: EncryptionKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = Recorder(types=("identify", "track"), settings=[Setting("listId", type=int)])
    url = f"sqlite+aiosqlite:///{tmp_path}/control.db"
    answers: dict[int, list[str]] = {}
    down = EventLogUnavailable(f"INSERT INTO events failed on db-7.internal for {encode(IDENTIFY)!r}")

    def keep(response: httpx.Response) -> int:
        answers.setdefault(response.status_code, []).append(message(response))
        if response.status_code == 503:
            assert int(response.headers["retry-after"]) > 0
        return response.status_code

    async with open_receiver(url, encryption, only.subscription, event_log=BrokenLog(down)) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed("globex"))
        page = {"type": "page", "userId": "u-1"}
        for deliver in (receiver.deliver, sender.send):
            assert keep(await deliver(page)) == 501
            assert keep(await deliver(IDENTIFY)) == 503
            assert keep(await deliver({"type": "track", "userId": "k@mail.example"})) == 400
            assert keep(await deliver(b"{not json k@mail.example")) == 400
        assert keep(await receiver.deliver(IDENTIFY, key="ews_guess")) == 401
        assert keep(await receiver.deliver(IDENTIFY, component="globex-crm")) == 404
        with monkeypatch.context() as broken:
            for module in ("intake", "signed_webhook"):
                broken.setattr(
                    f"enable_with_segment.subscriptions.receiving.{module}.check_event",
                    lambda event: event.no_such_attribute,
                )
            for deliver in (receiver.deliver, sender.send):
                assert keep(await deliver(IDENTIFY)) == 500
    assert all(re.search(r"\(incident [0-9a-f]{8}\)", text) for text in answers[500])
    said = json.dumps(answers)
    for internal in ("INSERT", "internal", "Traceback", "attribute", "sqlite", "globex", "mail.example", "ews_guess"):
        assert internal not in said


async def test_wh_11_what_a_handler_finds_invalid_is_a_dead_letter_with_its_reason(on_sqlite: Open) -> None:
    crm = Subscription("acme-crm")

    @crm.on("identify")
    async def refuse(event: Event) -> None:
        raise InvalidEventPayload("the e-mail address is missing")

    async with on_sqlite(crm) as receiver:
        # The answer does not wait for a handler, so it cannot be 400 any more (contract case 76).
        assert (await receiver.deliver(IDENTIFY)).status_code == 202
        await receiver.dispatcher.run_due()
        record = await receiver.only(state=EventState.DEAD_LETTER)
        assert "the e-mail address is missing" in str(record.last_error)
