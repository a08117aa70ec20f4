"""A refresh race: several processes, many tasks in each, one install whose token has run out, one Segment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import update
from sqlmodel import col

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control.tables import InstallToken
from enable_with_segment.db.database import Database
from enable_with_segment.segment_sandbox import Sandbox
from enable_with_segment.segment_sandbox.faults import Fault
from tests.forks import FORKS
from tests.installs.tokens.refresher import TASKS, Racer, refresh

PROCESSES = 4
SHORT_LEASE_SECONDS = 2.0
_LEASE_SECONDS = 30.0
REFRESH_ROUTE = "GET .*/token"


@dataclass
class Round:
    """What every task of every process got, and what that took."""

    obtained: list[str]
    live: str
    mints: int

    @property
    def not_live(self) -> list[str]:
        """What was handed out and is not the token that Segment accepts."""
        return [token for token in self.obtained if token != self.live]


class Participant:
    """A process of the race."""

    def __init__(self, racer: Racer) -> None:
        self._rounds, theirs = FORKS.Pipe()
        self._process = FORKS.Process(target=refresh, args=(racer, theirs))
        self._process.start()
        theirs.close()

    async def ask(self, lease_seconds: float) -> list[str]:
        """Let every task of it want a token; returns what each got."""
        self._rounds.send(lease_seconds)
        return await self.answer()

    async def answer(self) -> list[str]:
        """What it says next."""
        answer: list[str] = await asyncio.to_thread(self._rounds.recv)
        return answer

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def end(self) -> None:
        """Let it come to its end."""
        with contextlib.suppress(BrokenPipeError):  # it came to its end by itself
            self._rounds.send(None)
        self._process.join()
        self._process.close()
        self._rounds.close()


@dataclass
class Race:
    """Processes that wait for a round."""

    sandbox: Sandbox
    database: Database
    install_id: str
    install_name: str
    processes: list[Participant] = field(default_factory=list)

    async def all_at_once(self) -> Round:
        """Every task of every process wants a token in the same moment."""
        seen = await self._outdate()
        return await self._collect(
            seen, [asyncio.create_task(process.ask(_LEASE_SECONDS)) for process in self.processes]
        )

    async def cut_off(self) -> Round:
        """The same, and the first answer gets lost after Segment has issued the token."""
        self.sandbox.state.faults.add(REFRESH_ROUTE, Fault(reset=True, after=True))
        return await self.all_at_once()

    async def frozen_holder(self) -> Round:
        """The holder is stopped with its request under way, wakes up after its lease, and finds others served."""
        seen = await self._outdate()
        holder, *others = self.processes
        self.sandbox.state.faults.add(REFRESH_ROUTE, Fault(delay_seconds=0.1))
        late = asyncio.create_task(holder.ask(SHORT_LEASE_SECONDS))
        while self._requests() == seen:  # noqa: ASYNC110  # a request has no event of its own
            await asyncio.sleep(0.005)
        holder.signal(signal.SIGSTOP)
        try:
            served = [asyncio.create_task(process.ask(SHORT_LEASE_SECONDS)) for process in others]
            await asyncio.gather(*served)
        finally:
            holder.signal(signal.SIGCONT)
        return await self._collect(seen, [late, *served])

    async def _collect(self, seen: int, asked: list[asyncio.Task[list[str]]]) -> Round:
        answers = await asyncio.gather(*asked)
        (live,) = [token.value for token in self.sandbox.state.world.tokens.values() if token.install]
        obtained = [token for answer in answers for token in answer]
        assert len(obtained) == PROCESSES * TASKS
        return Round(obtained, live, self._requests() - seen)

    async def _outdate(self) -> int:
        """Let the stored token run out, here and at Segment; returns how many refreshes there were so far."""
        self.sandbox.state.world.revoke_tokens(self.install_name)
        async with self.database.transaction() as session:
            await session.exec(
                update(InstallToken)
                .where(col(InstallToken.install_id) == self.install_id)
                .values(expires_at=utc_now() - timedelta(seconds=1))
            )
        return self._requests()

    def _requests(self) -> int:
        return sum(record.path.endswith("/token") for record in self.sandbox.state.transcript.requests)


@asynccontextmanager
async def racing(
    sandbox: Sandbox,
    database: Database,
    encryption_keys: str,
    *,
    install_id: str,
    install_name: str,
) -> AsyncIterator[Race]:
    """Serve the sandbox on a socket and start the processes; they are gone when the block ends."""
    race = Race(sandbox, database, install_id, install_name)
    async with sandbox.listening() as segment:
        store = database.engine.url.render_as_string(hide_password=False)
        racer = Racer(store, segment, encryption_keys, install_id)
        try:
            for _ in range(PROCESSES):
                race.processes.append(Participant(racer))
            await asyncio.gather(*(process.answer() for process in race.processes))
            yield race
        finally:
            for process in race.processes:
                process.end()
