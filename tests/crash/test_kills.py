"""Nothing that was acknowledged is ever lost, whatever is killed, whenever: fifty kills in all.

``python -m benchmarks.crash`` does the same for as long as asked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import scratch
from tests.crash.rig import Report, Rig


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on a real disk, where a commit takes a moment: more kills meet one that is under way."""
    monkeypatch.setattr(tempfile, "tempdir", str(scratch.DISK))
    with tempfile.TemporaryDirectory(prefix="kills") as folder:
        yield Path(folder)


def _check(report: Report, kills: int) -> None:
    assert report.kills.total() == kills
    assert report.acknowledged >= kills
    assert report.missing == ()
    assert report.unhandled == ()
    assert report.without_effect == 0
    assert report.effects_twice == 0
    assert report.stored_twice == 0
    assert report.wrong == {}
    assert report.is_clean


async def test_killing_the_service_while_its_clock_jumps_by_hours_and_days_loses_nothing(on_disk: Path) -> None:
    _check(await Rig(on_disk, seed=20260302, moves_clock=True).run(28), 28)


async def test_killing_web_dispatcher_and_database_loses_nothing_and_is_answered_503(on_disk: Path) -> None:
    victims = ("service", "dispatcher", "service", "dispatcher", "database")
    report = await Rig(on_disk, engine="postgresql", victims=victims, seed=20260303, moves_clock=True).run(22)
    _check(report, 22)
    assert set(report.kills) == set(victims)
    assert report.statuses[503] > 0
