"""Nothing that was acknowledged is ever lost, whenever the process is killed."""

from __future__ import annotations

from pathlib import Path

from tests.crash.rig import Rig

KILLS = 50


async def test_fifty_kills_under_load_lose_nothing(tmp_path: Path) -> None:
    report = await Rig(tmp_path, seed=20260302).run(KILLS)
    assert report.acknowledged >= KILLS
    assert report.missing == ()
    assert report.unhandled == ()
    assert report.never_seen_by_handler == frozenset()
    assert report.stored_twice == 0
    assert report.wrong_answers == ()
