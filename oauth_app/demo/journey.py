"""The demo's story, step by step: a customer clicks, allows, is connected; events arrive; a person is forgotten."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from enable_with_segment.db.event_log.records import EventFilter
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.demo.browser import Browser
from enable_with_segment.oauth_app.demo.narrator import Narrator
from enable_with_segment.oauth_app.demo.processes import DemoFailed
from enable_with_segment.oauth_app.demo.senders import USER, SentEvent, send_customer_journey
from enable_with_segment.oauth_app.runtime.factories import connect_links_of
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import Stores, open_stores

T = TypeVar("T")

ACCOUNT = "acct_northwind"
_OWNER = "owner@northwind.example"
_WAIT_SECONDS = 30.0


@dataclass(slots=True)
class Result:
    """What the demo ends with; ``--json`` prints it as one line."""

    ok: bool = False
    install: str | None = None
    destination_enabled: bool = False
    events_sent: int = 0
    events_received: int = 0
    events_handled: int = 0
    deleted: bool = False
    seconds: float = 0.0
    status_url: str | None = field(default=None, repr=False)

    def as_json(self) -> dict[str, Any]:
        """The fields outside checks rely on."""
        return {name: value for name, value in asdict(self).items() if name != "status_url"}


class Journey:
    """Walks the whole way over HTTP against a running sandbox and a running service."""

    def __init__(self, settings: Settings, sandbox: str, narrator: Narrator, http: httpx.AsyncClient) -> None:
        self._settings = settings
        self._sandbox = sandbox
        self._narrator = narrator
        self._http = http
        self.result = Result()

    async def walk(self) -> Result:
        """Take every step.

        Raises:
            DemoFailed: a step did not end as it should.
        """
        started = time.monotonic()
        narrator, result = self._narrator, self.result
        async with open_stores(self._settings) as stores:
            with narrator.step("The partner makes a connect link for its customer's account"):
                link = (await connect_links_of(self._settings, stores.control).create(ACCOUNT, actor="demo")).url
                narrator.say(f"Account {ACCOUNT} gets a link that works once, for 15 minutes.")
            with narrator.step("The customer opens it, signs in to Segment, chooses a source and allows it"):
                result.status_url = await self._connect(link)
            with narrator.step("The service provisions the destination in the customer's workspace"):
                result.install = await self._provisioned(result.status_url)
                result.destination_enabled = await self._destination_enabled()
            with narrator.step("The customer's site sends events with Segment's own Python SDK"):
                sent = await self._send()
                result.events_sent = len(sent)
            with narrator.step(
                "Segment delivers them; the service stores each one and hands it to Acme CRM's handlers"
            ):
                await self._delivered(stores, [event.message_id for event in sent])
                await self._show_contact()
            with narrator.step("The customer deletes that person in Segment"):
                await self._delete(stores)
            with narrator.step("What the customer sees now"):
                status = await self._status(result.status_url)
                narrator.say(f"{status['workspace']} is {status['status']}, last event at {status['last_event_at']}")
        result.seconds = round(time.monotonic() - started, 1)
        result.ok = (
            result.destination_enabled
            and result.deleted
            and result.events_sent == result.events_received == result.events_handled > 0
            and status["status"] == "receiving"
        )
        return result

    async def _connect(self, link: str) -> str:
        browser = Browser(self._http, self._narrator.hop)
        page = await browser.submit(await browser.open(link))
        if page.url.path == "/login":
            page = await browser.submit(page, button=_OWNER)
        page = await browser.submit(page, button="allow")
        if not page.url.path.startswith("/status/"):
            raise DemoFailed(
                f"the browser should be on the status page, but is on {page.url.path} ({page.status_code})"
            )
        return str(page.url)

    async def _provisioned(self, status_url: str) -> str:
        async def settled() -> dict[str, Any] | None:
            status = await self._status(status_url)
            return None if status["status"] == "provisioning" else status

        status = await _until(settled, "the install is provisioned")
        for record in await self._transcript("/v1beta"):
            self._narrator.wire(record["method"], record["path"], record["status"])
        if status["status"] not in {"connected", "receiving"}:
            raise DemoFailed(f"the install should be connected, but is {status['status']}: {status['detail']}")
        self._narrator.say(f"Install {status['install']} is {status['status']}.")
        return str(status["install"])

    async def _destination_enabled(self) -> bool:
        state = await self._state()
        return any(destination["enabled"] for destination in state["destinations"])

    async def _send(self) -> list[SentEvent]:
        state = await self._state()
        source = state["workspaces"][0]["sources"][0]
        sent = await send_customer_journey(source["write_keys"][0], self._sandbox)
        for event in sent:
            self._narrator.say(f"{event.type:<9}{event.name}")
        for record in await self._transcript("/v1/"):
            self._narrator.wire(record["method"], record["path"], record["status"])
        return sent

    async def _delivered(self, stores: Stores, message_ids: list[str]) -> None:
        async def all_handled() -> bool | None:
            proof = await stores.event_log.prove(message_ids)
            self.result.events_received = proof.checked - len(proof.missing)
            self.result.events_handled = self.result.events_received - len(proof.unhandled)
            return True if self.result.events_handled == proof.checked else None

        await _until(all_handled, "every event is handled")
        await self._show_deliveries()
        count = self.result.events_handled
        self._narrator.say(f"{count} of {len(message_ids)} events are stored and handled.")

    async def _show_deliveries(self, event_type: str | None = None) -> None:
        answer = await self._http.get(f"{self._sandbox}/_sandbox/deliveries")
        for delivery in answer.json()["deliveries"]:
            if event_type in {None, delivery["type"]}:
                last = delivery["attempts"][-1] if delivery["attempts"] else {}
                self._narrator.wire("POST", f"/subscriptions/acme-crm  {delivery['type']}", last.get("status"))

    async def _show_contact(self) -> None:
        from examples.acme_crm.contacts import list_contacts  # noqa: PLC0415 - the partner's product, not ours

        for contact in await asyncio.to_thread(list_contacts, ACCOUNT):
            revenue = ", ".join(f"{amount} {currency}" for currency, amount in contact.revenue.items())
            self._narrator.say(
                f"Acme CRM now has a contact: {contact.name}, {contact.email}, {', '.join(contact.companies)}, "
                f"{contact.activities} activities, revenue {revenue}"
            )

    async def _delete(self, stores: Stores) -> None:
        from examples.acme_crm.contacts import list_contacts  # noqa: PLC0415

        answer = await self._http.post(
            f"{self._sandbox}/_sandbox/delete", json={"workspace": "workspaces/northwind", "user_id": USER}
        )
        if answer.status_code != 200:
            raise DemoFailed(f"the sandbox refused to delete: {answer.text}")

        async def gone() -> bool | None:
            deletes = await stores.event_log.find(EventFilter(type="delete"))
            contacts = await asyncio.to_thread(list_contacts, ACCOUNT)
            done = any(record.finished_at is not None for record in deletes)
            return True if done and not any(USER in contact.ids for contact in contacts) else None

        await _until(gone, "the contact is gone")
        await self._show_deliveries("delete")
        self.result.deleted = True
        self._narrator.say("The contact is gone from Acme CRM, and so are the stored bodies of its events.")

    async def _status(self, status_url: str) -> dict[str, Any]:
        answer = await self._http.get(status_url, headers={"Accept": "application/json"})
        status: dict[str, Any] = answer.json()
        return status

    async def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = (await self._http.get(f"{self._sandbox}/_sandbox/state")).json()
        return state

    async def _transcript(self, path: str) -> list[dict[str, Any]]:
        answer = await self._http.get(f"{self._sandbox}/_sandbox/requests")
        return [record for record in answer.json()["requests"] if record["path"].startswith(path)]


async def _until(check: Callable[[], Awaitable[T | None]], expected: str) -> T:
    """Ask again until the answer is there.

    Raises:
        DemoFailed: it did not come in time.
    """
    for _ in range(int(_WAIT_SECONDS / 0.1)):
        answer = await check()
        if answer is not None:
            return answer
        await asyncio.sleep(0.1)
    raise DemoFailed(f"waited {_WAIT_SECONDS:.0f} s until {expected}, in vain")
