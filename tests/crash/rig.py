"""Killing parts of the service again and again while events come in, and what has to be true afterwards."""

from __future__ import annotations

import asyncio
import math
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeAlias

from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import generate_encryption_key
from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.records import EventFilter
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.db.migrate import migrate
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.runtime.factories import api_keys_of
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import open_stores
from tests.crash.clock import MovedClock
from tests.crash.cluster import Cluster
from tests.crash.effects import Effects
from tests.crash.handlers import BATCHED, FORGET, HANDLERS
from tests.crash.sender import DELETE, Sender
from tests.crash.victims import Postgres, Process, Victim

Engine: TypeAlias = Literal["sqlite", "postgresql"]
Progress: TypeAlias = Callable[[int, Sender], None]

_LATE = timedelta(minutes=31)
"""Longer than any lease and any wait for another attempt."""
_SETTLE_SECONDS = 300
"""Hundreds of kills leave a thousand deletions behind, which a slow machine handles by the dozen in a second."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a run of kills left behind."""

    kills: Counter[str]
    acknowledged: int
    missing: tuple[str, ...]
    unhandled: tuple[str, ...]
    without_effect: int
    """Acknowledged messages that some handler was not called for, or not to the end."""
    effects_twice: int
    called_again: int
    """Messages that the handler was given more than once that never fails by itself."""
    stored_twice: int
    statuses: Counter[int]
    cut_off: int
    wrong: dict[int, int]

    @property
    def is_clean(self) -> bool:
        """Whether everything that was promised was kept."""
        broken = (self.missing, self.unhandled, self.without_effect, self.effects_twice, self.stored_twice, self.wrong)
        return not any(broken)


class NotSettled(AssertionError):
    """Time is up, and something that was acknowledged is not handled; the text says what."""


class Rig:
    """A service whose parts can be killed, on a port that outlives them.

    Args:
        folder: for the stores and the handlers' effects.
        engine: ``sqlite`` in one process, or a ``postgresql`` of its own with web and worker apart.
        victims: ``service`` (what receives), ``dispatcher`` and ``database``; the last two need PostgreSQL. One that
            stands here more than once dies more often.
        seed: of the victims and the moments of the kills.
        moves_clock: set the wall clock forward and back by hours and days, too.
    """

    def __init__(
        self,
        folder: Path,
        *,
        engine: Engine = "sqlite",
        victims: tuple[str, ...] = ("service",),
        seed: int,
        moves_clock: bool = False,
    ) -> None:
        self._effects = folder / "effects.db"
        self._random = random.Random(seed)  # noqa: S311  not a secret
        self._engine = engine
        self._wanted = victims
        self._moves_clock = moves_clock
        self._clock = MovedClock(folder / "clock")
        self._folder = folder
        self._encryption_key = generate_encryption_key()

    async def run(self, kills: int, *, seconds: float | None = None, progress: Progress | None = None) -> Report:
        """Kill one victim after the other under load, let everything come to rest, and take stock.

        Args:
            seconds: begin no kill after so long.
        """
        ends = math.inf if seconds is None else time.monotonic() + seconds
        async with AsyncExitStack() as stack:
            cluster = None
            if self._engine == "postgresql":
                cluster = await stack.enter_async_context(_running_cluster())
            settings = self._settings(cluster)
            async with open_stores(settings) as stores, stores.control.transaction() as session:
                minted = await api_keys_of(settings, stores).mint(session, account="acme", component="acme-crm")
            base, victims = await self._start(stack, settings, cluster)
            sender = Sender(f"{base}/subscriptions/acme-crm", minted.api_key)
            if cluster is not None:
                victims.append(Postgres(cluster, sender.ledger))
            by_name = {victim.name: victim for victim in victims}
            await _ready(base)
            sending = asyncio.create_task(sender.run())
            stack.callback(sending.cancel)
            killed: Counter[str] = Counter()
            for number in range(kills):
                if time.monotonic() > ends:
                    break
                await self._some_deliveries(sender)
                if self._moves_clock:
                    self._clock.move_to(timedelta(hours=self._random.uniform(-48, 48)))
                victim = by_name[self._random.choice(self._wanted)]
                await victim.die()
                killed[victim.name] += 1
                if progress is not None:
                    progress(number + 1, sender)
            await self._some_deliveries(sender)
            sender.stop()
            await sending
            await self._settled(settings, sender)
            return await self._report(settings, killed, sender)

    def _settings(self, cluster: Cluster | None) -> Settings:
        url = f"sqlite+aiosqlite:///{self._folder}/control.db" if cluster is None else cluster.url
        return Settings(
            _env_file=None,  # type: ignore[call-arg]
            database_url=url,
            encryption_keys=self._encryption_key,  # type: ignore[arg-type]
            handlers="tests.crash.handlers:crm",
        )

    async def _start(
        self, stack: AsyncExitStack, settings: Settings, cluster: Cluster | None
    ) -> tuple[str, list[Victim]]:
        """Start the processes; returns the address of what receives, and the processes."""
        environment = {
            "DATABASE_URL": settings.database_url,
            "ENCRYPTION_KEYS": self._encryption_key,
            "HANDLERS": "tests.crash.handlers:crm",
            "EFFECTS_FILE": str(self._effects),
            "CLOCK_FILE": str(self._folder / "clock"),
        }
        roles = {"service": "all"} if cluster is None else {"service": "web", "dispatcher": "worker"}
        addresses = []
        victims: list[Victim] = []
        for name, role in roles.items():
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(128)
            addresses.append(f"http://127.0.0.1:{listener.getsockname()[1]}")
            process = Process(name, role, listener, self._folder, environment)
            stack.callback(process.end)
            await process.born()
            victims.append(process)
        return addresses[0], victims

    async def _some_deliveries(self, sender: Sender) -> None:
        """Let a random number of events be acknowledged."""
        enough = len(sender.ledger.acknowledged) + self._random.randrange(1, 30)
        async with asyncio.timeout(120):
            while len(sender.ledger.acknowledged) < enough:  # noqa: ASYNC110  the moment is to be random
                await asyncio.sleep(self._random.random() * 0.02)

    async def _settled(self, settings: Settings, sender: Sender) -> None:
        """Wait until the log says that everything acknowledged was handled; while little happens, let time pass.

        A clock that was moved ends behind everything that was received: nothing may wait until it gets there.
        """
        offset = timedelta(hours=-48) if self._moves_clock else timedelta()
        self._clock.move_to(offset)
        event_log = open_event_log(settings.effective_event_log_url)
        left = len(sender.ledger.acknowledged)
        rounds = 0
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                while unhandled := (await event_log.prove(sender.ledger.acknowledged)).unhandled:
                    # What is worked on goes on at its own pace; what waits for another attempt need not wait for that.
                    if len(unhandled) == left or rounds % 10 == 9:
                        offset += _LATE
                        self._clock.move_to(offset)
                    left, rounds = len(unhandled), rounds + 1
                    await asyncio.sleep(1)
        except TimeoutError:
            raise NotSettled(await _what_is_left(event_log)) from None
        finally:
            await event_log.close()

    async def _report(self, settings: Settings, killed: Counter[str], sender: Sender) -> Report:
        ledger = sender.ledger
        stored: Counter[str] = Counter()
        event_log = open_event_log(settings.effective_event_log_url)
        try:
            proof = await event_log.prove(ledger.acknowledged)
            last = 0
            while records := await event_log.tail(last, EventFilter(), limit=1_000):
                stored.update(record.message_id or "" for record in records)
                last = records[-1].id
        finally:
            await event_log.close()
        effects = Effects(self._effects)
        counted = [effects.counted(handler) for handler in HANDLERS]
        forgotten = effects.counted(FORGET)
        called_again = effects.called_again(BATCHED)
        effects.close()
        deletes = {message_id for message_id in ledger.acknowledged if message_id.startswith(DELETE)}
        others = set(ledger.acknowledged) - deletes
        return Report(
            kills=killed,
            acknowledged=len(ledger.acknowledged),
            missing=proof.missing,
            unhandled=proof.unhandled,
            without_effect=len(deletes - forgotten.keys()) + sum(len(others - effect.keys()) for effect in counted),
            effects_twice=sum(times > 1 for effect in (*counted, forgotten) for times in effect.values()),
            called_again=called_again,
            stored_twice=sum(copies > 1 for copies in stored.values()),
            statuses=ledger.statuses,
            cut_off=ledger.cut_off,
            wrong=ledger.wrong,
        )


async def _what_is_left(event_log: StoredEventLog) -> str:
    states = (EventState.PENDING, EventState.DEAD_LETTER)
    left = [record for state in states for record in await event_log.find(EventFilter(state=state), limit=10_000)]
    kinds = Counter((record.type, record.state.value, record.attempts, record.last_error) for record in left)
    lines = [f"{count} x {kind}" for kind, count in kinds.most_common(20)]
    return "not everything that was acknowledged is handled:\n" + "\n".join(lines)


@asynccontextmanager
async def _running_cluster() -> AsyncIterator[Cluster]:
    cluster = await asyncio.to_thread(Cluster)
    try:
        await cluster.start()
        await cluster.make_database()
        database = Database.open(cluster.url)
        await migrate(database, "control")
        await migrate(database, "event_log")
        await database.close()
        yield cluster
    finally:
        await cluster.remove()


async def _ready(base: str) -> None:
    async with httpx.AsyncClient() as client:
        for _ in range(200):
            try:
                if (await client.get(f"{base}/healthz", timeout=30)).is_success:
                    return
            except httpx.HTTPError:
                await asyncio.sleep(0.1)
    raise AssertionError("the service never became ready")
