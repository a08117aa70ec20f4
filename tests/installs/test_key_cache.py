"""Keys are read in groups, and each of those who ask gets an own answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import api_keys
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys, generate_encryption_key
from enable_with_segment.installs import key_cache as key_cache_module
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.key_cache import STRANGERS, KeyCache, KeyLookup, KeyState


class HeldReads:
    """Quick reads that are counted, and wait until they may go on."""

    def __init__(self, database: Database) -> None:
        self._reads = database.reads
        self.go = asyncio.Event()
        self.go.set()
        self.count = 0
        self.failing = False
        self.late = asyncio.Event()
        self.late.set()

    async def rows(self, statement: Any) -> Sequence[Any]:
        self.count += 1
        await self.go.wait()
        if self.failing:
            raise OperationalError("SELECT", {}, Exception("away"))
        rows = await self._reads.rows(statement)
        await self.late.wait()
        return rows

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
def key_cache(api_keys_on_sqlite: ApiKeys) -> KeyCache:
    return api_keys_on_sqlite.key_cache


def states(lookups: Sequence[KeyLookup]) -> list[KeyState]:
    return [lookup.state for lookup in lookups]


async def asked(*questions: asyncio.Future[Any]) -> None:
    """Let them come as far as they can."""
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(question.done() for question in questions)


async def test_those_who_ask_meanwhile_share_the_next_query(
    key_cache: KeyCache, keys: list[str], reads: HeldReads
) -> None:
    reads.go.clear()
    first = asyncio.create_task(key_cache.look_up(keys[0]))
    await asked(first)
    others = [asyncio.create_task(key_cache.look_up(key)) for key in (*keys, *keys, "ews_unknown")]
    await asked(first, *others)
    reads.go.set()
    assert (await first).state is KeyState.USABLE
    answers = await asyncio.gather(*others)
    assert states(answers) == [KeyState.USABLE] * 14 + [KeyState.UNKNOWN]
    assert len({answer.holder.key_id for answer in answers if answer.holder}) == 7
    assert reads.count == 2


async def test_a_query_holds_a_bounded_number(
    key_cache: KeyCache, keys: list[str], reads: HeldReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_cache_module, "_MOST_AT_ONCE", 3)
    answers = await asyncio.gather(*(key_cache.look_up(key) for key in keys))
    assert states(answers) == [KeyState.USABLE] * 7
    assert reads.count == 3


async def test_when_the_store_is_away_everybody_is_told_and_later_answered(
    key_cache: KeyCache, keys: list[str], reads: HeldReads
) -> None:
    reads.failing = True
    answers = await asyncio.gather(*(key_cache.look_up(key) for key in keys), return_exceptions=True)
    assert [type(answer) for answer in answers] == [OperationalError] * 7
    reads.failing = False
    assert states(await asyncio.gather(*(key_cache.look_up(key) for key in keys))) == [KeyState.USABLE] * 7
    assert not key_cache._questions


async def test_who_gives_up_takes_nobody_along(key_cache: KeyCache, keys: list[str], reads: HeldReads) -> None:
    reads.go.clear()
    giving_up, staying = (asyncio.create_task(key_cache.look_up(keys[0])) for _ in range(2))
    await asked(giving_up, staying)
    giving_up.cancel()
    reads.go.set()
    assert (await staying).state is KeyState.USABLE


async def test_what_was_asked_before_everything_was_forgotten_is_not_believed(
    key_cache: KeyCache, keys: list[str], reads: HeldReads
) -> None:
    reads.go.clear()
    before = asyncio.create_task(key_cache.look_up(keys[0], place=b"p"))
    await asked(before)
    key_cache.forget()
    reads.go.set()
    assert (await before).state is KeyState.USABLE
    assert key_cache.recent(b"p") is None
    await key_cache.look_up(keys[0], place=b"p")
    assert reads.count == 2
    assert key_cache.recent(b"p") is not None


async def test_every_presentation_of_a_key_is_remembered(
    key_cache: KeyCache, keys: list[str], reads: HeldReads
) -> None:
    await asyncio.gather(*(key_cache.look_up(keys[0], place=b"%d" % n) for n in range(3)))
    assert reads.count == 1
    assert all(key_cache.recent(b"%d" % n) is not None for n in range(3))


async def test_one_key_takes_nobody_elses_place_and_the_oldest_goes_first(
    key_cache: KeyCache, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_cache_module, "_MOST_REMEMBERED", 5)
    for key in keys[:2]:
        await key_cache.look_up(key)
    for number in range(20):
        await key_cache.look_up(keys[0], place=b"%d" % number)
    others, names = [key_cache.place(key.encode()) for key in keys], [key_cache.hash(key) for key in keys]
    assert key_cache.sender(others[1]) == names[1]
    assert [key_cache.sender(b"%d" % number) for number in (15, 16, 19)] == [STRANGERS, names[0], names[0]]
    await asyncio.gather(*map(key_cache.look_up, keys[2:]))
    assert [key_cache.sender(place) for place in others] == [STRANGERS, STRANGERS, *names[2:]]
    key_cache.forget()
    assert [key_cache.sender(place) for place in others[2:]] == names[2:], "they are no strangers"
    assert [key_cache.recent(place) for place in others] == [None] * 7, "and nothing is believed"
    assert key_cache.sender(None) == STRANGERS


async def test_the_store_is_not_closed_under_a_query(key_cache: KeyCache, keys: list[str], reads: HeldReads) -> None:
    reads.go.clear()
    question = asyncio.create_task(key_cache.look_up(keys[0]))
    await asked(question)
    closing = asyncio.create_task(key_cache.close())
    await asked(question, closing)
    reads.go.set()
    await closing
    assert (await question).state is KeyState.USABLE


async def test_a_query_that_was_cancelled_holds_up_no_later_question(
    key_cache: KeyCache, keys: list[str], reads: HeldReads
) -> None:
    reads.go.clear()
    first = asyncio.create_task(key_cache.look_up(keys[0]))
    await asked(first)
    second = asyncio.create_task(key_cache.look_up(keys[1]))
    await asked(first, second)
    assert key_cache._reading is not None
    key_cache._reading.cancel()
    with pytest.raises(ConnectionError):
        await first
    reads.go.set()
    async with asyncio.timeout(10):
        assert (await key_cache.look_up(keys[1])).state is KeyState.USABLE
        assert (await second).state is KeyState.USABLE


async def test_who_asks_long_after_a_query_began_is_not_told_what_it_read(
    key_cache: KeyCache, keys: list[str], reads: HeldReads, sqlite_database: Database
) -> None:
    now = 0.0
    key_cache._monotonic = lambda: now
    reads.late.clear()
    first = asyncio.create_task(key_cache.look_up(keys[0]))
    await asked(first)
    async with sqlite_database.transaction() as session:
        found = await api_keys.find_by_hash(session, key_cache.hash(keys[0]))
        assert found is not None
        await api_keys.revoke(session, found.id, now=utc_now())
    now = 1.0
    second = asyncio.create_task(key_cache.look_up(keys[0]))
    await asked(first, second)
    reads.late.set()
    assert states(await asyncio.gather(first, second)) == [KeyState.USABLE, KeyState.REVOKED]


class Key(str):
    """A key that tells when it is gone."""

    __slots__ = ("__weakref__",)


async def test_a_failure_keeps_no_key_in_memory(empty_database_url: str) -> None:
    database = Database.open(empty_database_url)
    key_cache = KeyCache(database, b"s" * 32)

    async def ask() -> weakref.ref[Key]:
        key = Key("ews_any")
        with contextlib.suppress(SQLAlchemyError):
            await key_cache.look_up(key)
        return weakref.ref(key)

    gc.disable()
    try:
        asked_for = await asyncio.gather(ask(), ask())
        async with asyncio.timeout(10):
            while any(key() is not None for key in asked_for):  # noqa: ASYNC110  a thread lets go last
                await asyncio.sleep(0.001)
    finally:
        gc.enable()
        await database.close()


async def test_a_row_that_cannot_be_read_takes_no_other_key_along(
    sqlite_database: Database, key_cache: KeyCache, keys: list[str], reads: HeldReads
) -> None:
    broken = key_cache.hash(keys[3])
    async with sqlite_database.transaction() as session:
        connection = await session.connection()
        await connection.execute(text("UPDATE api_keys SET created_at = 'odd' WHERE key_hash = :h"), {"h": broken})
    answers = await asyncio.gather(*(key_cache.look_up(key) for key in keys), return_exceptions=True)
    failed = [key for key, answer in zip(keys, answers, strict=True) if isinstance(answer, BaseException)]
    assert failed == [keys[3]]
    assert reads.count == 1 + len(keys)
