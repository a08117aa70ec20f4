"""What is made of the times of guessed keys."""

from __future__ import annotations

import random
from pathlib import Path

from benchmarks.key_timing import by_chance, differences, measure, tells


def _seconds(median: float, chance: random.Random) -> list[float]:
    return [median * chance.lognormvariate(0.0, 0.2) for _ in range(400)]


def test_a_difference_is_told_from_chance() -> None:
    chance = random.Random(1)  # noqa: S311  not a secret
    seconds = {"made up": _seconds(300e-6, chance), "the same": _seconds(300e-6, chance)}
    seconds["slower"] = _seconds(400e-6, chance)
    noise, found = by_chance(seconds["made up"]), differences(seconds)
    assert {kind: tells(difference, noise) for kind, difference in found.items()} == {"the same": False, "slower": True}


async def test_every_kind_of_guess_is_asked_as_often(tmp_path: Path) -> None:
    seconds = await measure(tmp_path, 10)
    assert {kind: len(taken) for kind, taken in seconds.items()} == {
        "made up": 10,
        "last character wrong": 10,
        "first character wrong": 10,
    }
