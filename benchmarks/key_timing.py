"""``python -m benchmarks.key_timing``: whether the time of a 401 says anything about a guessed key.

Three kinds of guesses come in turns, many times: keys that are made up, the real key with another last character, and
the real key with another first one after its prefix. Time would tell something if one kind took longer than another
by more than the same kind differs from itself, which is measured by halving the made-up ones at random.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import uvloop

from enable_with_segment.db.encryption import EncryptionKeys, generate_encryption_key
from tests.subscriptions.receiver import Receiver, Recorder, basic, open_receiver

_MADE_UP = "made up"
_BOUND = 3.0
"""Beyond so many times the difference that chance makes, the exit status is 1."""


async def measure(folder: Path, turns: int) -> dict[str, list[float]]:
    """Return the seconds of each answer, by the kind of guess."""
    recorder = Recorder()
    url = f"sqlite+aiosqlite:///{folder}/control.db"
    seconds: dict[str, list[float]] = defaultdict(list)
    async with open_receiver(url, EncryptionKeys.parse(generate_encryption_key()), recorder.subscription) as receiver:
        for turn in range(-turns // 10, turns):  # the first ones only warm up
            guesses = list(_guesses(receiver.key).items())
            random.shuffle(guesses)
            for kind, guess in guesses:
                took = await _ask(receiver, guess)
                if turn >= 0:
                    seconds[kind].append(took)
    return seconds


def _guesses(key: str) -> dict[str, str]:
    prefix, _, rest = key.partition("_")
    made_up = "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=len(rest)))  # noqa: S311  a guess
    return {
        _MADE_UP: f"{prefix}_{made_up}",
        "last character wrong": key[:-1] + ("a" if key[-1] != "a" else "b"),
        "first character wrong": f"{prefix}_{'a' if rest[0] != 'a' else 'b'}{rest[1:]}",
    }


async def _ask(receiver: Receiver, key: str) -> float:
    statuses: list[int] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        if "status" in message:
            statuses.append(message["status"])

    headers = [(b"authorization", basic(key).encode()), (b"content-length", b"2")]
    scope = {"type": "http", "method": "POST", "path": "/acme-crm", "headers": headers}
    started = time.perf_counter()
    await receiver.webhook(scope, _nothing_is_read, send)
    took = time.perf_counter() - started
    if statuses != [401]:
        raise RuntimeError(f"a guess was answered {statuses}")
    return took


async def _nothing_is_read() -> MutableMapping[str, Any]:
    raise RuntimeError("a delivery without a good key is not read")


def by_chance(seconds: list[float], rounds: int = 200) -> float:
    """Return how far the medians of two random halves lie apart, in 99 of 100 halvings."""
    apart = []
    for _ in range(rounds):
        shuffled = random.sample(seconds, len(seconds))
        half = len(shuffled) // 2
        apart.append(abs(statistics.median(shuffled[:half]) - statistics.median(shuffled[half:])))
    return sorted(apart)[rounds * 99 // 100]


def differences(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Return by how much the median of each other kind of guess lies from that of the made-up ones."""
    usual = statistics.median(seconds[_MADE_UP])
    return {kind: statistics.median(taken) - usual for kind, taken in seconds.items() if kind != _MADE_UP}


def tells(difference: float, chance: float) -> bool:
    """Whether a difference is more than chance makes."""
    return abs(difference) > _BOUND * chance


def main() -> None:
    """Run from the command line. The exit status is 1 when a kind of guess can be told by its time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.key_timing", description=__doc__)
    parser.add_argument("--turns", type=int, default=4_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = uvloop.run(measure(Path(folder), arguments.turns))
    chance = by_chance(seconds[_MADE_UP])
    usual = statistics.median(seconds[_MADE_UP])
    print(f"{_MADE_UP:24}{1e6 * usual:9.1f} us in the median; halves differ by up to {1e6 * chance:.2f} us")
    found = differences(seconds)
    for kind, difference in found.items():
        print(f"{kind:24}{1e6 * (usual + difference):9.1f} us, {1e6 * difference:+.2f} us")
    told = any(tells(difference, chance) for difference in found.values())
    print("a kind of guess can be told by its time" if told else "no kind of guess can be told by its time")
    raise SystemExit(1 if told else 0)


if __name__ == "__main__":
    main()
