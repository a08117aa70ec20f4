"""What the log says while our own stores refuse deliveries: each trouble, how often, and when it is over."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from enable_with_segment.db.event_log.records import CommitsTooSlow
from enable_with_segment.subscriptions.receiving import store_trouble
from enable_with_segment.subscriptions.receiving.store_trouble import StoreTroubles
from tests.oauth_app.operations import running_service

STORING = "storing an event"
AWAY = OperationalError("INSERT INTO events VALUES ('of a person')", {}, ConnectionRefusedError())


class Ticks:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def troubles(ticks: Ticks) -> StoreTroubles:
    return StoreTroubles(ticks)


def test_an_hour_without_a_database_is_one_line_and_a_count_now_and_then(
    troubles: StoreTroubles, ticks: Ticks, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(36_000):
        troubles.refused(STORING, AWAY)
        ticks.now += 0.1
    assert 100 <= len(caplog.messages) <= 125
    assert caplog.messages[0] == "Answering 503: storing an event failed (OperationalError)"
    assert caplog.messages[1].startswith("Still answering 503: storing an event failed (OperationalError), 300 more")
    ticks.now += 10
    caplog.clear()
    for _ in range(5):
        troubles.taken()
    (over,) = caplog.messages
    assert over == (
        "Deliveries are taken again; 36000 were refused over 3600 s: "
        "36000 because storing an event failed (OperationalError)"
    )
    assert "person" not in caplog.text


def test_every_kind_of_trouble_is_told_when_it_begins(
    troubles: StoreTroubles, ticks: Ticks, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        troubles.refused(STORING, AWAY)
        troubles.refused("looking up an API key", AWAY)
        troubles.refused(STORING, CommitsTooSlow("commits take too long"))
        troubles.refused(STORING, TimeoutError())
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "storing an event failed (OperationalError)",
        "looking up an API key failed (OperationalError)",
        "storing an event failed (CommitsTooSlow)",
        "storing an event failed (TimeoutError)",
    ]
    ticks.now += 60
    troubles.taken()
    assert "12 were refused over 0 s: 3 because storing" in caplog.messages[-1]


def test_a_bug_is_told_with_its_place_and_apart_from_a_bug_elsewhere(
    troubles: StoreTroubles, caplog: pytest.LogCaptureFixture
) -> None:
    def one() -> None:
        raise ValueError

    def another() -> None:
        raise ValueError

    for buggy in (one, one, another, one):
        try:
            buggy()
        except ValueError as bug:
            troubles.refused(STORING, bug)
    assert [record.exc_info is not None for record in caplog.records] == [True, True]
    assert "in one" in caplog.text
    assert "in another" in caplog.text


def test_trouble_that_comes_and_goes_is_not_over_yet(
    troubles: StoreTroubles, ticks: Ticks, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(9):
        troubles.refused(STORING, AWAY)
        ticks.now += 9
        troubles.taken()
    assert [message.partition(" ")[0] for message in caplog.messages] == ["Answering", "Still", "Still"]
    ticks.now += 1
    troubles.taken()
    assert caplog.messages[-1].startswith("Deliveries are taken again; 9 were refused over 72 s")
    troubles.refused(STORING, AWAY)
    assert caplog.messages[-1].startswith("Answering 503"), "new trouble is told at once"


def test_what_was_not_told_is_told_when_the_process_stops(
    troubles: StoreTroubles, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(7):
        troubles.refused(STORING, AWAY)
    troubles.ends()
    assert "7 because storing an event failed (OperationalError)" in caplog.messages[-1]
    caplog.clear()
    troubles.ends()
    assert caplog.messages == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 60), st.floats(0, 40)), max_size=200))
def test_nothing_is_lost_and_memory_is_bounded(caplog: pytest.LogCaptureFixture, met: list[tuple[int, float]]) -> None:
    caplog.clear()
    ticks = Ticks()
    troubles = StoreTroubles(ticks)
    for number, pause in met:
        troubles.refused(f"step {number}", OSError())
        ticks.now += pause
        assert len(troubles._kinds) <= 20
    troubles.ends()
    told = "\n".join(caplog.messages)
    assert sum(map(int, re.findall(r"; (\d+) were refused", told))) == len(met)
    assert set(re.findall(r"^Answering 503: (step \d+) failed", told, re.MULTILINE)) == {f"step {n}" for n, _ in met}


async def test_deliveries_while_the_store_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ticks: Ticks
) -> None:
    monkeypatch.setattr(store_trouble, "TROUBLES", StoreTroubles(ticks))
    caplog.set_level(logging.WARNING, store_trouble.__name__)
    async with running_service(tmp_path) as service:
        _, key = await service.api_key()
        _, other = await service.api_key()
        rename = "ALTER TABLE api_keys RENAME TO {}".format
        async with service.services.database.engine.begin() as connection:
            await connection.exec_driver_sql(rename("elsewhere"))
        for number in range(20):
            assert (await service.deliver(key, f"m-{number}")).status_code == 503
        async with service.services.database.engine.begin() as connection:
            await connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO api_keys")
        ticks.now += 15
        assert (await service.deliver(other, "m-20")).status_code == 202
        assert [message.partition(":")[0] for message in caplog.messages] == [
            "Answering 503",
            "Deliveries are taken again; 20 were refused over 0 s",
        ]
