"""More deliveries than can be answered in time: the rest is refused at once, with 503 and Retry-After."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from db.encryption import EncryptionKeys
from db.event_log.records import Appended, NewEvent
from db.event_log.sqlite import SqliteEventLog
from subscriptions.receiving.webhook import WebhookLimits
from tests.subscriptions.receiver import Recorder, open_receiver


class HeldUpLog(SqliteEventLog):
    """A log whose commits wait until they may go on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.go = asyncio.Event()
        self.three = asyncio.Barrier(4)

    async def append(self, event: NewEvent) -> Appended:
        if not self.go.is_set():
            await self.three.wait()
        await self.go.wait()
        return await super().append(event)


async def test_wh_11_what_is_too_much_at_once_is_refused_early(tmp_path: Path, encryption: EncryptionKeys) -> None:
    log = HeldUpLog(tmp_path / "held-up.db")
    async with open_receiver(
        f"sqlite+aiosqlite:///{tmp_path}/control.db",
        encryption,
        Recorder().subscription,
        event_log=log,
        webhook_limits=WebhookLimits(deliveries_at_once=3),
    ) as receiver:
        event = {"type": "identify", "userId": "u-1"}
        taken = [asyncio.create_task(receiver.deliver({**event, "messageId": f"m-{n}"})) for n in range(3)]
        await log.three.wait()  # until all three of them wait for a commit
        refused = [await receiver.deliver({**event, "messageId": f"late-{n}"}) for n in range(6)]
        assert {response.status_code for response in refused} == {503}
        assert all(int(response.headers["retry-after"]) > 0 for response in refused)
        log.go.set()
        answers = Counter(response.status_code for response in await asyncio.gather(*taken))
        assert answers == {202: 3}
        assert (await receiver.deliver({**event, "messageId": "after"})).status_code == 202
        assert (await log.prove(["m-0", "m-1", "m-2", "after"])).missing == ()
        await log.close()
