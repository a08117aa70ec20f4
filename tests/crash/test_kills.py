"""Nothing that was acknowledged is ever lost, whatever is killed, whenever: fifty kills in all.

``python -m benchmarks.crash`` does the same for as long as asked.
"""

from __future__ import annotations

from pathlib import Path

from tests.crash.rig import Report, Rig


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


async def test_killing_the_service_while_its_clock_jumps_by_hours_and_days_loses_nothing(tmp_path: Path) -> None:
    _check(await Rig(tmp_path, seed=20260302, moves_clock=True).run(28), 28)


async def test_killing_web_dispatcher_and_database_loses_nothing_and_is_answered_503(tmp_path: Path) -> None:
    victims = ("service", "dispatcher", "service", "dispatcher", "database")
    report = await Rig(tmp_path, engine="postgresql", victims=victims, seed=20260303, moves_clock=True).run(22)
    _check(report, 22)
    assert set(report.kills) == set(victims)
    assert report.statuses[503] > 0
