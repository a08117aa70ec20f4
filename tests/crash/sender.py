"""A sender with a ledger: what was acknowledged must be in the log, whatever happens to the receiver."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import httpx


@dataclass
class Ledger:
    """What was sent and what of it was acknowledged, by message id."""

    sent: int = 0
    acknowledged: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    cut_off: int = 0
    """Deliveries that got no answer."""

    @property
    def wrong(self) -> dict[int, int]:
        """Answers that nobody should get: a 4xx would lose the event for good, and our own trouble is 503."""
        return {status: count for status, count in self.statuses.items() if not 200 <= status < 300 and status != 503}


class Sender:
    """Sends events over some connections, each as fast as it is answered, and never gives up."""

    def __init__(self, url: str, key: str, *, connections: int = 8) -> None:
        self.ledger = Ledger()
        self._url = url
        self._key = key
        self._connections = connections
        self._stopping = False

    async def run(self) -> None:
        """Send until :meth:`stop`."""
        async with httpx.AsyncClient(auth=(self._key, ""), timeout=5) as client:
            await asyncio.gather(*(self._send(client) for _ in range(self._connections)))

    def stop(self) -> None:
        """Send nothing new."""
        self._stopping = True

    async def _send(self, client: httpx.AsyncClient) -> None:
        while not self._stopping:
            self.ledger.sent += 1
            message_id = f"crash-{self.ledger.sent}"
            event = {"type": "track", "event": "Order Completed", "userId": "u-1", "messageId": message_id}
            # A delivery that was cut off is sent again under the same id, as Segment does.
            while not await self._deliver(client, message_id, event) and not self._stopping:  # noqa: ASYNC110  until it is taken
                await asyncio.sleep(0.005)

    async def _deliver(self, client: httpx.AsyncClient, message_id: str, event: dict[str, str]) -> bool:
        try:
            response = await client.post(self._url, json=event)
        except httpx.HTTPError:
            self.ledger.cut_off += 1
            return False
        self.ledger.statuses[response.status_code] += 1
        if response.is_success:
            self.ledger.acknowledged.append(message_id)
        return response.is_success
