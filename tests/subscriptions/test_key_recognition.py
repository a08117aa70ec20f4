"""Keys are read in groups, and each of those who ask gets an own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from db.database import Database
from db.encryption import EncryptionKeys, generate_encryption_key
from subscriptions import key_recognition
from subscriptions.api_keys import ApiKeys
from subscriptions.key_recognition import KeyLookup, KeyRecognition, KeyState


class HeldReads:
    """Quick reads that are counted, and wait until they may go on."""

    def __init__(self, database: Database) -> None:
        self._reads = database.reads
        self.go = asyncio.Event()
        self.go.set()
        self.count = 0
        self.failing = False

    async def rows(self, statement: Any) -> Sequence[Any]:
        self.count += 1
        await self.go.wait()
        if self.failing:
            raise OperationalError("SELECT", {}, Exception("away"))
        return await self._reads.rows(statement)

    async def close(self) -> None:
        await self._reads.close()


@pytest.fixture
def reads(sqlite_database: Database) -> HeldReads:
    held = HeldReads(sqlite_database)
    sqlite_database.reads = held
    return held


@pytest.fixture
def api_keys_on_sqlite(sqlite_database: Database) -> ApiKeys:
    return ApiKeys(sqlite_database, EncryptionKeys.parse(generate_encryption_key()), b"s" * 32)


@pytest.fixture
async def keys(sqlite_database: Database, api_keys_on_sqlite: ApiKeys) -> list[str]:
    async with sqlite_database.transaction() as session:
        minted = [
            await api_keys_on_sqlite.mint(session, account="northwind", component="acme-crm", install_id=None)
            for _ in range(7)
        ]
    return [one.api_key for one in minted]


@pytest.fixture
def recognition(api_keys_on_sqlite: ApiKeys) -> KeyRecognition:
    return api_keys_on_sqlite.recognition


def states(lookups: Sequence[KeyLookup]) -> list[KeyState]:
    return [lookup.state for lookup in lookups]


async def asked(*questions: asyncio.Future[Any]) -> None:
    """Let them come as far as they can."""
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(question.done() for question in questions)


async def test_those_who_ask_meanwhile_share_the_next_query(
    recognition: KeyRecognition, keys: list[str], reads: HeldReads
) -> None:
    reads.go.clear()
    first = asyncio.create_task(recognition.look_up(keys[0]))
    await asked(first)
    others = [asyncio.create_task(recognition.look_up(key)) for key in (*keys, *keys, "ews_unknown")]
    await asked(first, *others)
    reads.go.set()
    assert (await first).state is KeyState.USABLE
    answers = await asyncio.gather(*others)
    assert states(answers) == [KeyState.USABLE] * 14 + [KeyState.UNKNOWN]
    assert len({answer.holder.key_id for answer in answers if answer.holder}) == 7
    assert reads.count == 2


async def test_a_query_holds_a_bounded_number(
    recognition: KeyRecognition, keys: list[str], reads: HeldReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_recognition, "_MOST_AT_ONCE", 3)
    answers = await asyncio.gather(*(recognition.look_up(key) for key in keys))
    assert states(answers) == [KeyState.USABLE] * 7
    assert reads.count == 3


async def test_when_the_store_is_away_everybody_is_told_and_later_answered(
    recognition: KeyRecognition, keys: list[str], reads: HeldReads
) -> None:
    reads.failing = True
    answers = await asyncio.gather(*(recognition.look_up(key) for key in keys), return_exceptions=True)
    assert [type(answer) for answer in answers] == [OperationalError] * 7
    reads.failing = False
    assert states(await asyncio.gather(*(recognition.look_up(key) for key in keys))) == [KeyState.USABLE] * 7
    assert not recognition._questions


async def test_who_gives_up_takes_nobody_along(recognition: KeyRecognition, keys: list[str], reads: HeldReads) -> None:
    reads.go.clear()
    giving_up, staying = (asyncio.create_task(recognition.look_up(keys[0])) for _ in range(2))
    await asked(giving_up, staying)
    giving_up.cancel()
    reads.go.set()
    assert (await staying).state is KeyState.USABLE


async def test_what_was_asked_before_everything_was_forgotten_is_not_believed(
    recognition: KeyRecognition, keys: list[str], reads: HeldReads
) -> None:
    reads.go.clear()
    before = asyncio.create_task(recognition.look_up(keys[0], presentation=b"p"))
    await asked(before)
    recognition.forget()
    reads.go.set()
    assert (await before).state is KeyState.USABLE
    assert recognition.recent(b"p") is None
    await recognition.look_up(keys[0], presentation=b"p")
    assert reads.count == 2
    assert recognition.recent(b"p") is not None


async def test_every_presentation_of_a_key_is_remembered(
    recognition: KeyRecognition, keys: list[str], reads: HeldReads
) -> None:
    await asyncio.gather(*(recognition.look_up(keys[0], presentation=b"%d" % n) for n in range(3)))
    assert reads.count == 1
    assert all(recognition.recent(b"%d" % n) is not None for n in range(3))


async def test_the_store_is_not_closed_under_a_query(
    recognition: KeyRecognition, keys: list[str], reads: HeldReads
) -> None:
    reads.go.clear()
    question = asyncio.create_task(recognition.look_up(keys[0]))
    await asked(question)
    closing = asyncio.create_task(recognition.close())
    await asked(question, closing)
    reads.go.set()
    await closing
    assert (await question).state is KeyState.USABLE
