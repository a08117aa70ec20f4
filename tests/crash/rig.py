"""Killing the receiver again and again while events come in, and what has to be true afterwards."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import httpx

from db.encryption import generate_encryption_key
from db.event_log.opening import open_event_log
from oauth_app.parts import api_keys_of
from oauth_app.settings import Settings
from oauth_app.stores import open_stores
from tests.crash.sender import Sender


@dataclass(frozen=True, slots=True)
class Report:
    """What a run of kills left behind."""

    kills: int
    acknowledged: int
    missing: tuple[str, ...]
    unhandled: tuple[str, ...]
    never_seen_by_handler: frozenset[str]
    handled_twice: int
    stored_twice: int
    wrong_answers: tuple[int, ...]


class Rig:
    """A receiver that can be killed, on a port that outlives it.

    Args:
        folder: for the stores and the handler's notes.
        seed: of the moments of the kills.
    """

    def __init__(self, folder: Path, *, seed: int) -> None:
        self._handled = folder / "handled"
        self._handled.touch()
        self._random = random.Random(seed)  # noqa: S311  not a secret
        self._environment = {
            "DATABASE_URL": f"sqlite+aiosqlite:///{folder}/control.db",
            "ENCRYPTION_KEYS": generate_encryption_key(),
            "HANDLERS": "tests.crash.receiver:crm",
            "HANDLED_FILE": str(self._handled),
        }
        self._settings = Settings(
            _env_file=None,
            **{  # type: ignore[call-arg, arg-type]
                name.lower(): value for name, value in self._environment.items() if name != "HANDLED_FILE"
            },
        )

    async def run(self, kills: int) -> Report:
        """Kill the receiver ``kills`` times under load, let the last one finish, and take stock."""
        async with open_stores(self._settings) as stores, stores.control.transaction() as session:
            minted = await api_keys_of(self._settings, stores).mint(session, account="acme", component="acme-crm")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(128)
            base = f"http://127.0.0.1:{listener.getsockname()[1]}"
            sender = Sender(f"{base}/subscriptions/acme-crm", minted.api_key)
            sending: asyncio.Task[None] | None = None
            receiver = self._start(listener)
            server = await asyncio.to_thread(_next_server, receiver)
            try:
                await _ready(base)
                sending = asyncio.create_task(sender.run())
                for _ in range(kills):
                    acknowledged = len(sender.ledger.acknowledged)
                    while len(sender.ledger.acknowledged) < acknowledged + self._random.randrange(1, 60):  # noqa: ASYNC110  the moment is to be random
                        await asyncio.sleep(self._random.random() * 0.02)
                    os.kill(server, signal.SIGKILL)
                    server = await asyncio.to_thread(_next_server, receiver)
                sender.stop()
                await sending
                await self._settled(sender)
            finally:
                if sending is not None:
                    sending.cancel()
                receiver.kill()  # first, or it would start one more server
                receiver.wait()
                os.kill(server, signal.SIGKILL)
                assert receiver.stdout is not None
                receiver.stdout.close()
        return await self._report(kills, sender)

    def _start(self, listener: socket.socket) -> subprocess.Popen[bytes]:
        number = listener.fileno()
        return subprocess.Popen(  # noqa: S603  our own module
            [sys.executable, "-m", "tests.crash.receiver", str(number)],
            env={**os.environ, **self._environment},
            pass_fds=[number],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    async def _settled(self, sender: Sender) -> None:
        """Wait until the log says that everything acknowledged was handled."""
        event_log = open_event_log(self._settings.effective_event_log_url)
        try:
            async with asyncio.timeout(60):
                while (await event_log.prove(sender.ledger.acknowledged)).unhandled:  # noqa: ASYNC110  another process does it
                    await asyncio.sleep(0.1)
        finally:
            await event_log.close()

    async def _report(self, kills: int, sender: Sender) -> Report:
        event_log = open_event_log(self._settings.effective_event_log_url)
        try:
            proof = await event_log.prove(sender.ledger.acknowledged)
            copies = [len(await event_log.show(message_id)) for message_id in sender.ledger.acknowledged]
        finally:
            await event_log.close()
        handled = Counter(self._handled.read_text(encoding="utf-8").split())
        return Report(
            kills=kills,
            acknowledged=len(sender.ledger.acknowledged),
            missing=proof.missing,
            unhandled=proof.unhandled,
            never_seen_by_handler=frozenset(sender.ledger.acknowledged) - handled.keys(),
            handled_twice=sum(1 for count in handled.values() if count > 1),
            stored_twice=sum(1 for count in copies if count > 1),
            wrong_answers=tuple(sender.ledger.wrong),
        )


def _next_server(receiver: subprocess.Popen[bytes]) -> int:
    assert receiver.stdout is not None
    return int(receiver.stdout.readline())


async def _ready(base: str) -> None:
    async with httpx.AsyncClient() as client:
        for _ in range(200):
            try:
                if (await client.get(f"{base}/healthz", timeout=30)).is_success:
                    return
            except httpx.HTTPError:
                await asyncio.sleep(0.1)
    raise AssertionError("the receiver never became ready")
