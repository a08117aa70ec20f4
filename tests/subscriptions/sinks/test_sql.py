"""The SQL sink on both engines."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.ext.asyncio import create_async_engine

from enable_with_segment import InstallContext, RetryError, SqlSink
from enable_with_segment.subscriptions.sinks.sql import CONTACTS, EVENTS, merge_traits
from tests.subscriptions.sinks.conftest import NOON, event


@pytest.fixture
async def sink(empty_database_url: str) -> AsyncIterator[SqlSink]:
    made = SqlSink(empty_database_url)
    yield made
    await made.aclose()


async def rows(url: str, table: Any) -> list[dict[str, Any]]:
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            return [dict(row) for row in (await connection.execute(select(table))).mappings()]
    finally:
        await engine.dispose()


async def test_events_and_contacts(sink: SqlSink, empty_database_url: str, install: InstallContext) -> None:
    events = [
        event("identify", traits={"email": "k@mail.example", "plan": "free"}, messageId="m-1"),
        event("track", event="Paid", messageId="m-2", properties={"total": 1.5, "text": "a\0b"}),
        event("identify", minutes=-5, traits={"plan": "older", "city": "Graz"}),
        event("identify", None, anonymousId="device-1", traits={"plan": "nobody yet"}),
    ]
    await sink.write(events, install)
    await sink.write(events, install)  # at least once
    stored = await rows(empty_database_url, EVENTS)
    assert sorted(str(row["name"]) for row in stored) == ["None", "None", "None", "Paid"]
    (paid,) = [row for row in stored if row["type"] == "track"]
    assert (paid["account"], paid["message_id"], paid["timestamp"]) == ("acme", "m-2", NOON)
    assert paid["payload"]["properties"]["total"] == 1.5
    (contact,) = await rows(empty_database_url, CONTACTS)
    assert contact["traits"] == {"email": "k@mail.example", "plan": "free", "city": "Graz"}
    assert contact["updated_at"] == NOON
    await sink.write([event("identify", minutes=1, traits={"plan": None})], install)
    await sink.write([event("identify", traits={"plan": "late"})], install)
    (contact,) = await rows(empty_database_url, CONTACTS)
    assert contact["traits"] == {"email": "k@mail.example", "city": "Graz"}


async def test_case_107_a_deletion_reaches_both_tables_and_merged_ids(
    sink: SqlSink, empty_database_url: str, install: InstallContext
) -> None:
    other = InstallContext("globex", "acme-crm")
    await sink.write(
        [
            event("track", None, anonymousId="device-1", event="before"),
            event("alias", "u-1", previousId="device-1"),
            event("alias", "u-1", previousId="u-0"),
            event("identify", "u-0", traits={"email": "old@mail.example"}),
            event("identify", "u-1", traits={"email": "k@mail.example"}),
            event("identify", "u-1", minutes=10, traits={"plan": "came back"}),
            event("track", "u-2", event="somebody else"),
            event("identify", "u-2", traits={"email": "else@mail.example"}),
        ],
        install,
    )
    await sink.write([event("identify", "u-1", traits={"email": "same id elsewhere"})], other)
    await sink.erase([event("delete", "u-1", minutes=5), event("delete", "nobody")], install)
    contacts = {(row["account"], row["user_id"]): row["traits"] for row in await rows(empty_database_url, CONTACTS)}
    assert contacts == {
        ("acme", "u-1"): {"plan": "came back"},
        ("acme", "u-2"): {"email": "else@mail.example"},
        ("globex", "u-1"): {"email": "same id elsewhere"},
    }
    kept = [(row["account"], row["type"], row["user_id"]) for row in await rows(empty_database_url, EVENTS)]
    assert sorted(kept) == [
        ("acme", "identify", "u-1"),
        ("acme", "identify", "u-2"),
        ("acme", "track", "u-2"),
        ("globex", "identify", "u-1"),
    ]


async def test_a_database_that_fails_is_tried_again_and_quotes_no_row(install: InstallContext) -> None:
    sink = SqlSink("sqlite+aiosqlite:////no/such/folder/sink.db")
    for attempt in (sink.write, sink.erase):
        with pytest.raises(RetryError) as refused:
            await attempt([event("identify", traits={"email": "k@mail.example"})], install)
        assert "OperationalError" in str(refused.value)
        assert "mail.example" not in str(refused.value)
    await sink.aclose()
    # The driver's thread of a connection that was never made says its last word to this test's event loop.
    for _ in range(500):
        if not any("_connection_worker_thread" in thread.name for thread in threading.enumerate()):
            break
        await asyncio.sleep(0.01)


async def test_a_call_that_is_cut_off_leaves_no_lock_in_the_file(tmp_path: Path, install: InstallContext) -> None:
    """What the time limit of a handler does; here between the running of a SELECT and the fetching of its row."""
    path = tmp_path / "sink.db"
    sink = SqlSink(f"sqlite+aiosqlite:///{path}")
    await sink.write([event("track", event="Before")], install)
    loop = asyncio.get_running_loop()

    async def write_and_be_cut_off() -> asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None

        def cut_off(statement: str) -> None:
            if statement.startswith("SELECT contacts"):
                loop.call_soon_threadsafe(task.cancel)

        async with sink._engine.connect() as connection:  # the only one, which the call below is given
            raw: Any = (await connection.get_raw_connection()).driver_connection
            await raw.set_trace_callback(cut_off)
        try:
            await sink.write([event("identify", traits={"plan": "free"})], install)
        except asyncio.CancelledError as cancelled:
            return cancelled
        pytest.fail("the call was not cut off")

    cancelled = await asyncio.create_task(write_and_be_cut_off())
    assert cancelled.__traceback__ is not None
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as another:
        another.execute("BEGIN EXCLUSIVE")
        assert another.execute("SELECT count(*) FROM contacts").fetchone() == (0,)
        another.execute("ROLLBACK")
    await sink.write([event("identify", traits={"plan": "free"})], install)
    assert [row["traits"] for row in await rows(f"sqlite+aiosqlite:///{path}", CONTACTS)] == [{"plan": "free"}]
    await sink.aclose()


async def test_the_file_keeps_the_journal_that_its_owner_chose(tmp_path: Path, install: InstallContext) -> None:
    path = tmp_path / "sink.db"
    with closing(sqlite3.connect(path)) as owner:
        owner.execute("PRAGMA journal_mode=WAL")
    sink = SqlSink(f"sqlite+aiosqlite:///{path}")
    await sink.write([event("track", event="Paid")], install)
    await sink.aclose()
    with closing(sqlite3.connect(path)) as owner:
        assert owner.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert owner.execute("SELECT name FROM events").fetchone() == ("Paid",)


VALUES = st.dictionaries(st.sampled_from("abc"), st.none() | st.integers(), max_size=3)


@given(
    st.lists(VALUES, max_size=6).flatmap(lambda items: st.tuples(st.just(items), st.permutations(range(len(items)))))
)
def test_traits_end_the_same_in_whatever_order_events_come(drawn: tuple[list[dict[str, Any]], list[int]]) -> None:
    items, order = drawn
    at = [event("identify", minutes=number).timestamp for number in range(len(items))]

    def merged(numbers: list[int]) -> tuple[dict[str, Any], dict[str, str]]:
        traits: dict[str, Any] = {}
        times: dict[str, str] = {}
        for number in numbers:
            traits, times = merge_traits(traits, times, items[number], at[number])
        return traits, times

    assert merged(order) == merged(list(range(len(items))))


async def test_a_nul_in_any_text_is_stored_cleaned_and_a_deletion_finds_the_person(
    sink: SqlSink, empty_database_url: str, install: InstallContext
) -> None:
    await sink.write(
        [
            event("identify", "u\0-1", messageId="m\0", traits={"na\0me": "x\0", "deep": [{"y": "\0"}]}),
            event("track", "u\0-1", event="Pa\0id", anonymousId="d\0"),
            event("alias", "u\0-1", previousId="old\0"),
            event("track", "old\0", event="B"),
            event("group", "v", groupId="g\0"),
        ],
        install,
    )
    stored = await rows(empty_database_url, EVENTS)
    assert len(stored) == 5
    assert not [row for row in stored if "\0" in repr(row).encode().decode("unicode_escape", "replace")]
    assert len(await rows(empty_database_url, CONTACTS)) == 1
    await sink.erase([event("delete", "u\0-1", minutes=1)], install)
    assert [row["user_id"] for row in await rows(empty_database_url, EVENTS)] == ["v"]
    assert await rows(empty_database_url, CONTACTS) == []
