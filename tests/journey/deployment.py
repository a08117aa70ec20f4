"""One service beside one sandbox, each a process of its own, and what a customer does with them over HTTP."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.demo.browser import Browser
from enable_with_segment.oauth_app.runtime.factories import connect_links_of
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import open_stores
from enable_with_segment.segment_sandbox.config import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET
from tests.journey.processes import Finished, Running, run_command
from tests.leak_watch import WATCH, command_name

T = TypeVar("T")

WORKSPACE = "northwind"
SOURCE = f"workspaces/{WORKSPACE}/sources/web-prod"
DESTINATION = f"{SOURCE}/destinations/acme-crm"
_LONGEST_SECONDS = 45.0


class Deployment:
    """A partner's service on this machine, its stores in a folder, registered with a running sandbox.

    Attributes:
        fresh: start its processes as a user does, each in an interpreter of its own, instead of forking them.
    """

    def __init__(self, folder: Path, sandbox: str, port: int, encryption_key: str, http: httpx.AsyncClient) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.port = port
        self.http = http
        self.fresh = False
        self.started: list[Running] = []
        self.environment = {
            "BASE_URL": self.url,
            "PARTNER_NAME": "Acme CRM",
            "DATABASE_URL": f"sqlite+aiosqlite:///{folder}/control.db",
            "ENCRYPTION_KEYS": encryption_key,
            "SEGMENT_CLIENT_ID": DEFAULT_CLIENT_ID,
            "SEGMENT_CLIENT_SECRET": DEFAULT_CLIENT_SECRET,
            "SEGMENT_DESTINATION": "acme-crm",
            "SEGMENT_IDENTITY_URL": sandbox,
            "SEGMENT_CONFIG_API_URL": f"{sandbox}/v1beta",
            "HANDLERS": "examples.acme_crm.handlers:crm",
            "ACME_CRM_DATABASE": f"{folder}/acme_crm.db",
            "LOG_LEVEL": "DEBUG",
        }

    @property
    def url(self) -> str:
        """The service's public address."""
        return f"http://localhost:{self.port}"

    @property
    def log(self) -> Path:
        """Everything that service processes printed."""
        return self.folder / "service.log"

    def start(self, *options: str, port: int | None = None) -> Running:
        """Start ``serve``; wait for :func:`is_ready` before using it."""
        arguments = ["serve", "--port", str(port or self.port), *options]
        running = Running(arguments, self.environment, self.log, self.folder, fresh=self.fresh)
        self.started.append(running)
        return running

    def serve(self, *options: str) -> Running:
        """Start ``serve`` and wait until it says that it is ready."""
        running = self.start(*options)
        running.wait_for("enable-with-segment ready on")
        return running

    async def command(self, *arguments: str, without: str | None = None, **environment: str) -> Finished:
        """Run a command of the command line as a process of its own."""
        given = {name: value for name, value in {**self.environment, **environment}.items() if name != without}
        done = await run_command(arguments, given, self.folder, fresh=self.fresh)
        WATCH.wrote(f"output of {command_name(arguments)}", f"{done.output}{done.errors}".encode())
        return done

    def settings(self) -> Settings:
        """The service's settings, for looking into its stores from here; its handlers are not loaded for that."""
        given: dict[str, Any] = {name.lower(): value for name, value in self.environment.items() if name != "HANDLERS"}
        return Settings(_env_file=None, **given)  # type: ignore[call-arg]

    async def link(self, account: str) -> str:
        """A connect link, made as a partner's own Python would."""
        async with open_stores(self.settings()) as stores:
            return (await connect_links_of(self.settings(), stores.control).create(account)).url

    async def connect(self, link: str, *, owner: str = f"owner@{WORKSPACE}.example", **choice: str) -> str:
        """Walk from a connect link to the status page; returns its address."""
        async with httpx.AsyncClient(timeout=30) as http:
            browser = Browser(http)
            page = await browser.submit(await browser.open(link))
            if page.url.path == "/login":
                page = await browser.submit(page, button=owner)
            page = await browser.submit(page, button="allow", **choice)
        assert page.url.path.startswith("/status/"), f"{page.status_code} {page.url.path}"
        return str(page.url)

    async def status(self, status_url: str) -> dict[str, Any]:
        """What the status page says, as JSON."""
        answer = await self.http.get(status_url, headers={"Accept": "application/json"})
        told: dict[str, Any] = answer.json()
        return told

    async def reaches(self, status_url: str, wanted: str) -> dict[str, Any]:
        """Wait until an install has a status."""

        async def there() -> dict[str, Any] | None:
            told = await self.status(status_url)
            return told if told["status"] == wanted else None

        return await until(there, f"the install is {wanted}")

    async def state(self) -> dict[str, Any]:
        """Everything the sandbox holds, secrets included."""
        state: dict[str, Any] = (await self.http.get(f"{self.sandbox}/_sandbox/state?secrets=1")).json()
        return state

    async def destinations(self) -> dict[str, dict[str, Any]]:
        """The destinations in Segment, by name."""
        return {destination["name"]: destination for destination in (await self.state())["destinations"]}

    async def look_for_leaks(self) -> None:
        """Let the watch over the test read what the processes logged, with the secrets that they were given."""
        state = await self.state()
        tokens = [token["access_token"] for install in state["installs"] for token in install["tokens"]]
        keys = [str(destination["config"].get("apiKey", "")) for destination in state["destinations"]]
        WATCH.secret("install token", *tokens)
        WATCH.secret("API key", *keys)
        WATCH.secret("client secret", self.environment["SEGMENT_CLIENT_SECRET"])
        given = self.environment["ENCRYPTION_KEYS"].split(",")
        WATCH.secret("encryption key", *(entry.partition(":")[2] for entry in given))
        for log in self.folder.glob("*.log"):
            WATCH.wrote("log of a process", log.read_bytes())

    async def control(self, name: str, **body: object) -> dict[str, Any]:
        """Turn one of the sandbox's knobs."""
        answer = await self.http.post(f"{self.sandbox}/_sandbox/{name}", json=body)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def send(self, kind: str, source: str = SOURCE, **event: object) -> None:
        """Send an event to Segment, as the customer's site would."""
        sources = [found for workspace in (await self.state())["workspaces"] for found in workspace["sources"]]
        (write_key,) = next(found["write_keys"] for found in sources if found["name"] == source)
        answer = await self.http.post(
            f"{self.sandbox}/v1/{kind}", json=event, headers={"Authorization": basic(write_key)}
        )
        assert answer.status_code == 200, answer.text

    async def delivered(self, message_id: str) -> list[int | None]:
        """Wait until Segment's deliveries of an event ended; returns the status of each attempt."""

        async def done() -> list[int | None] | None:
            answer = await self.http.get(f"{self.sandbox}/_sandbox/deliveries?message_id={message_id}")
            attempts = [attempt for found in answer.json()["deliveries"] for attempt in found["attempts"]]
            return [attempt["status"] for attempt in attempts] or None

        return await until(done, f"{message_id} is delivered")

    async def handled(self, *message_ids: str) -> None:
        """Wait until the event log proves that events were received and handled."""
        async with open_stores(self.settings()) as stores:

            async def proven() -> bool | None:
                proof = await stores.event_log.prove(message_ids)
                return None if proof.missing or proof.unhandled else True

            await until(proven, f"{', '.join(message_ids)} are handled")


async def until(check: Callable[[], Awaitable[T | None]], expected: str) -> T:
    """Ask again until there is an answer; fails when it does not come."""
    try:
        async with asyncio.timeout(_LONGEST_SECONDS):
            while True:
                answer = await check()
                if answer is not None:
                    return answer
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"waited {_LONGEST_SECONDS:.0f} s until {expected}, in vain") from None


def basic(name: str) -> str:
    """Basic credentials with an empty password, as Segment's write keys and API keys are sent."""
    return "Basic " + base64.b64encode(f"{name}:".encode()).decode()


def sandbox_environment(port: int) -> Mapping[str, str]:
    """The settings of a sandbox that knows a service at a port."""
    return {
        "SANDBOX_ENDPOINT": f"http://127.0.0.1:{port}/subscriptions/acme-crm",
        "SANDBOX_REDIRECT_URI": f"http://localhost:{port}/auth/segment/callback",
        "SANDBOX_PROFILE": "documented",
    }
