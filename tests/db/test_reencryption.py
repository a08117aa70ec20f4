"""Every encrypted column is known, and moves to the current key whatever happens meanwhile (security TK-1, TK-6)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlmodel import SQLModel, col

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import api_keys, audit, install_tokens, service_secrets
from enable_with_segment.db.control.ciphertexts import (
    KeyUse,
    ciphertext_columns,
    count_all,
    count_not_of_key,
    keys_in_use,
)
from enable_with_segment.db.control.key_status import KeyStatus, key_status
from enable_with_segment.db.control.reencryption import REPLACED, Pace, Reencryption
from enable_with_segment.db.control.tables import Account, ApiKey, ControlTable, FlowState
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys, Place
from enable_with_segment.db.event_log.tables import EventLogTable
from tests.rows import an_install

OLD = EncryptionKeys({"old": b"o" * 32})
BOTH = EncryptionKeys({"new": b"n" * 32, "old": b"o" * 32})
NEW = BOTH.only_current()
ROWS = 23


class Killed(BaseException):
    """What a process's sudden end looks like from inside."""


@pytest.fixture
async def store(database: Database) -> Database:
    """A store with rows in every encrypted column, written with the old key."""
    await fill(database)
    return database


TOTAL = 4 * ROWS + 1


def test_every_column_that_says_it_is_encrypted_is_known() -> None:
    named = {
        f"{table.name}.{column.name}"
        for base in (ControlTable, EventLogTable, SQLModel)
        for table in base.metadata.tables.values()
        for column in table.columns
        if "cipher" in column.name or "encrypted" in column.name
    }
    assert named == {str(encrypted) for encrypted in ciphertext_columns()}


def test_every_encrypted_column_is_filled_by_these_tests() -> None:
    """Whoever adds an encrypted column adds rows to the fixture, so that the tests below speak of it, too."""
    assert [str(encrypted) for encrypted in ciphertext_columns()] == [
        "api_keys.key_ciphertext",
        "api_keys.signing_secret_ciphertext",
        "flow_states.code_verifier_ciphertext",
        "install_tokens.access_token_ciphertext",
        "service_secrets.value_ciphertext",
    ]


async def test_the_service_binds_ciphertexts_to_the_places_that_are_looked_at(store: Database) -> None:
    assert await keys_in_use(store, OLD) == [
        KeyUse("api_keys", "key_ciphertext", "old", ROWS, opens=True),
        KeyUse("api_keys", "signing_secret_ciphertext", "old", ROWS, opens=True),
        KeyUse("flow_states", "code_verifier_ciphertext", "old", ROWS, opens=True),
        KeyUse("install_tokens", "access_token_ciphertext", "old", ROWS, opens=True),
        KeyUse("service_secrets", "value_ciphertext", "old", 1, opens=True),
    ]
    assert not any(use.opens for use in await keys_in_use(store, NEW))
    assert not any(use.opens for use in await keys_in_use(store, EncryptionKeys({"old": b"x" * 32})))


async def test_tk_01_the_database_holds_no_secret_in_clear(sqlite_database: Database, tmp_path: Path) -> None:
    await fill(sqlite_database)
    raw = (tmp_path / "control.db").read_bytes()
    assert b"ins_004" in raw
    assert clear("").encode() not in raw


async def test_everything_moves_to_the_current_key_and_opens_with_it_alone(store: Database) -> None:
    progress: list[int] = []
    work = Reencryption(store, BOTH, pace=Pace(batch=5), sleep=at_once)
    report = await work.run(progress.append)
    assert (report.rewritten, report.remaining, report.complete) == (TOTAL, 0, True)
    assert sum(progress) == TOTAL
    assert (await work.verify()).verified == TOTAL
    assert report.complete
    await assert_moved(store)


async def test_a_second_run_changes_nothing(store: Database) -> None:
    await Reencryption(store, BOTH, sleep=at_once).run()
    before = await ciphertexts(store)
    assert (await Reencryption(store, BOTH, sleep=at_once).run()).rewritten == 0
    assert await ciphertexts(store) == before


@pytest.mark.parametrize("batches", [1, 2, 7, 12])
async def test_tk_06_killed_after_any_batch_and_run_again_it_ends_the_same(store: Database, batches: int) -> None:
    with pytest.raises(Killed):
        await Reencryption(store, BOTH, pace=Pace(batch=5), sleep=killed_after(batches)).run()
    left = await count_not_of_key(store, "new")
    assert 0 < left < TOTAL
    report = await Reencryption(store, BOTH, pace=Pace(batch=5), sleep=at_once).run()
    assert (report.rewritten, report.remaining) == (left, 0)
    await assert_moved(store)


async def test_tk_06_killed_between_reading_and_writing_nothing_is_half_done(store: Database) -> None:
    async def cancel(work: asyncio.Task[object], after: int) -> None:
        for _ in range(after):
            await asyncio.sleep(0)
        work.cancel()

    for after in (1, 5, 20, 60, 150):
        work = asyncio.create_task(Reencryption(store, BOTH, pace=Pace(batch=3), sleep=at_once).run())
        await asyncio.gather(cancel(work, after), work, return_exceptions=True)
        for use in await keys_in_use(store, BOTH):
            assert use.opens
            assert use.key_id in {"old", "new"}
    assert (await Reencryption(store, BOTH, sleep=at_once).run()).remaining == 0
    await assert_moved(store)


async def test_a_token_that_is_refreshed_meanwhile_is_not_overwritten(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """Whatever the service writes between the reading of a batch and its writing stays."""
    await fill(sqlite_database)
    refreshed = NEW.encrypt("refreshed", install_tokens.place("ins_004"))

    class RefreshedMeanwhile(EncryptionKeys):
        def decrypt(self, ciphertext: str, place: Place) -> str:
            if place == install_tokens.place("ins_004"):
                with closing(sqlite3.connect(tmp_path / "control.db")) as another, another:
                    another.execute(
                        "UPDATE install_tokens SET access_token_ciphertext = ? WHERE install_id = 'ins_004'",
                        [refreshed],
                    )
            return super().decrypt(ciphertext, place)

    keys = RefreshedMeanwhile({"new": b"n" * 32, "old": b"o" * 32})
    assert (await Reencryption(sqlite_database, keys, sleep=at_once).run()).complete
    assert (await ciphertexts(sqlite_database))["install_tokens.access_token_ciphertext", "ins_004"] == refreshed


async def test_rows_that_keep_arriving_with_the_old_key_are_taken_up_again(store: Database) -> None:
    stragglers = iter(range(2))

    async def a_process_with_the_old_value(_seconds: float) -> None:
        number = next(stragglers, None)
        if number is not None:
            async with store.transaction() as session:
                session.add(a_key(f"aaa_{number}"))  # sorts before what was done already

    report = await Reencryption(store, BOTH, pace=Pace(batch=10), sleep=a_process_with_the_old_value).run()
    assert (report.rewritten, report.remaining) == (TOTAL + 4, 0)


async def test_it_says_so_when_the_old_key_goes_on_being_used(store: Database) -> None:
    numbers = iter(range(10_000))

    async def forever(_seconds: float) -> None:
        async with store.transaction() as session:
            session.add(a_key(f"aaa_{10_000 - next(numbers):05}"))  # sorts before what was done already

    report = await Reencryption(store, BOTH, pace=Pace(batch=10), sleep=forever).run()
    assert report.remaining > 0
    assert not report.complete


async def test_a_secret_that_does_not_open_is_named_and_left_alone(store: Database) -> None:
    foreign = EncryptionKeys({"lost": b"l" * 32}).encrypt("x", api_keys.place("key_007"))
    async with store.transaction() as session:
        await session.exec(update(ApiKey).where(col(ApiKey.id) == "key_007").values(key_ciphertext=foreign))
        await session.exec(update(ApiKey).where(col(ApiKey.id) == "key_008").values(key_ciphertext="not one"))
    report = await Reencryption(store, BOTH, pace=Pace(batch=5), sleep=at_once).run()
    assert report.unreadable == ["api_keys.key_ciphertext of key_007", "api_keys.key_ciphertext of key_008"]
    assert (report.remaining, report.unreadable_rows, report.complete) == (2, 2, False)
    assert (await ciphertexts(store))["api_keys.key_ciphertext", "key_007"] == foreign
    status = await key_status(store, BOTH)
    assert status.missing == ["lost"]
    assert not status.healthy
    assert "Put lost back" in status.next_step()


async def test_a_key_that_was_replaced_is_remembered_even_if_the_run_is_killed(store: Database) -> None:
    with pytest.raises(Killed):
        await Reencryption(store, BOTH, sleep=killed_after(1)).run()
    async with store.transaction() as session:
        assert await audit.subjects(session, action=REPLACED) == {"old"}
    assert (await key_status(store, EncryptionKeys({"new": b"n" * 32, "old": b"o" * 32}))).added is None


async def test_nothing_is_replaced_while_a_key_is_only_added(store: Database) -> None:
    added = EncryptionKeys({"old": b"o" * 32, "new": b"n" * 32})
    assert (await Reencryption(store, added, sleep=at_once).run()).rewritten == 0
    assert (await key_status(store, added)).added == "new"


@pytest.mark.parametrize(
    ("pace", "seconds", "pause"),
    [(Pace(100), 0.2, 0.2), (Pace(100, rate=100), 0.2, 0.8), (Pace(100, rate=10_000), 0.2, 0.2)],
)
def test_the_store_is_left_alone_for_as_long_as_it_was_used(pace: Pace, seconds: float, pause: float) -> None:
    assert pace.pause_after(100, seconds) == pytest.approx(pause)


def use_of(key_id: str, *, opens: bool = True) -> KeyUse:
    return KeyUse("t", "c", key_id, 1, opens)


@pytest.mark.parametrize(
    ("configured", "uses", "replaced", "says"),
    [
        (("a",), [], set(), "Nothing to do"),
        (("a",), [use_of("a")], set(), "Nothing to do"),
        (("a", "b"), [use_of("a")], set(), "rotate --stage use"),
        (("b", "a"), [use_of("a")], set(), "reencrypt --verify"),
        (("b", "a"), [use_of("a"), use_of("b")], set(), "reencrypt --verify"),
        (("b", "a"), [use_of("b")], {"a"}, "rotate --stage retire"),
        (("b",), [use_of("b")], {"a"}, "Nothing to do"),
        (("b",), [use_of("a", opens=False)], set(), "Put a back into ENCRYPTION_KEYS"),
        (("a",), [use_of("a", opens=False)], set(), "another key than the one"),
        (("a",), [use_of("", opens=False)], set(), "another key than the one"),
    ],
)
def test_the_next_step_follows_from_what_is_stored(
    configured: tuple[str, ...], uses: list[KeyUse], replaced: set[str], says: str
) -> None:
    assert says in KeyStatus("ENCRYPTION_KEYS", configured, uses, replaced).next_step()


async def fill(database: Database) -> None:
    """Write rows with the old key into every encrypted column."""
    now = utc_now()
    async with database.transaction() as session:
        session.add(Account(id="acme", created_at=now))
        for number in range(ROWS):
            session.add(a_key(f"key_{number:03}"))
            session.add(an_install(f"ins_{number:03}"))
            session.add(a_flow(f"flow_{number:03}"))
        session.add(a_flow("finished", verifier=False))
        await session.flush()
        for number in range(ROWS):
            row = f"ins_{number:03}"
            await install_tokens.save(session, OLD, row, clear(row), expires_at=now + timedelta(hours=1), now=now)
        await service_secrets.ensure(session, OLD, "canary", now=now)


def clear(row: str) -> str:
    return f"clear text of {row}"


def a_key(row: str) -> ApiKey:
    return ApiKey(
        id=row,
        key_hash=f"hash of {row}",
        key_ciphertext=OLD.encrypt(clear(row), api_keys.place(row)),
        signing_secret_ciphertext=OLD.encrypt(clear(row), api_keys.signing_secret_place(row)),
        last_four="0000",
        account="acme",
        component="crm",
        created_at=utc_now(),
    )


def a_flow(row: str, *, verifier: bool = True) -> FlowState:
    place = Place("flow_states", "code_verifier_ciphertext", row)
    return FlowState(
        state_hash=row,
        cookie_hash="",
        account="acme",
        component="crm",
        code_verifier_ciphertext=OLD.encrypt(clear(row), place) if verifier else None,
        created_at=utc_now(),
        expires_at=utc_now(),
    )


async def ciphertexts(database: Database) -> dict[tuple[str, str], str]:
    """Every ciphertext, by its column and row."""
    found: dict[tuple[str, str], str] = {}
    for encrypted in ciphertext_columns():
        async with database.engine.connect() as connection:
            statement = select(encrypted.key, encrypted.column).where(encrypted.column.is_not(None))
            for row, ciphertext in (await connection.execute(statement)).all():
                found[str(encrypted), row] = ciphertext
    return found


async def assert_moved(database: Database) -> None:
    """Nothing carries the old key, and the new one alone opens every secret to what it was."""
    assert await count_all(database) == TOTAL
    assert await count_not_of_key(database, "new") == 0
    stored = await ciphertexts(database)
    for encrypted in ciphertext_columns():
        for (column, row), ciphertext in stored.items():
            if column == str(encrypted):
                opened = NEW.decrypt(ciphertext, encrypted.place(row))
                assert opened == clear(row) or encrypted.table.name == "service_secrets"


async def at_once(_seconds: float) -> None:
    await asyncio.sleep(0)


def killed_after(batches: int) -> Callable[[float], Awaitable[None]]:
    """A pause in which the process ends, after a number of batches."""
    left = iter(range(batches - 1))

    async def pause(_seconds: float) -> None:
        if next(left, None) is None:
            raise Killed

    return pause
