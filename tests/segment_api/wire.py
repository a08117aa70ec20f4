"""A wire to the sandbox, or to a scripted server, that remembers exactly what was sent."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_api.grants import InstallGrant
from enable_with_segment.segment_api.identity import IdentityClient
from enable_with_segment.segment_api.rate_limiter import RateLimiter
from enable_with_segment.segment_api.secret import Secret
from enable_with_segment.segment_sandbox import Sandbox

ORIGIN = "http://127.0.0.1:8889"
CONFIG_API = f"{ORIGIN}/v1beta"
CLIENT_ID = "0c7a5d1e-9b34-4c7e-8a52-6d1f3be0aa17"
CLIENT_SECRET = "q7VtR2mZk9Lp"
VERIFIER = "v" * 43
REDIRECT_URI = "http://localhost:8888/auth/segment/callback"
SCOPE = "destination/acme-crm"
SOURCE = "workspaces/northwind/sources/web-prod"
DESTINATION = f"{SOURCE}/destinations/acme-crm"

OnRequest = Callable[[httpx.Request], httpx.Response | None]


@dataclass
class Sent:
    """One request as it went over the wire, and the status that came back."""

    method: str
    path: str
    headers: httpx.Headers
    body: bytes
    status: int | None = None

    @property
    def form(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(self.body.decode(), keep_blank_values=True).items()}

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value

    @property
    def basic(self) -> str:
        scheme, _, value = self.headers["authorization"].partition(" ")
        assert scheme == "Basic"
        return base64.b64decode(value).decode()

    @property
    def route(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Wire(httpx.AsyncBaseTransport):
    """Passes requests on to an ASGI application and keeps them.

    ``before`` may answer or raise in the application's place, ``meanwhile`` does something else before the answer is
    passed on, and ``after`` may raise once the application has answered.
    """

    app: Any
    sent: list[Sent] = field(default_factory=list)
    before: OnRequest | None = None
    after: Callable[[Sent], None] | None = None
    meanwhile: Callable[[str], Awaitable[None]] | None = None

    def __post_init__(self) -> None:
        self._inner = httpx.ASGITransport(app=self.app)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        sent = Sent(request.method, request.url.path, request.headers, await request.aread())
        self.sent.append(sent)
        response = self.before(request) if self.before is not None else None
        if response is None:
            response = await self._inner.handle_async_request(request)
        sent.status = response.status_code
        if self.meanwhile is not None:
            await self.meanwhile(sent.route)
        if self.after is not None:
            self.after(sent)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()

    def routes(self) -> list[str]:
        return [sent.route for sent in self.sent]

    def of(self, method: str, end: str = "") -> list[Sent]:
        """The requests with this method whose path ends so."""
        return [sent for sent in self.sent if sent.method == method and sent.path.endswith(end)]


def identity_client(
    transport: httpx.AsyncBaseTransport, *, client_secret: str = CLIENT_SECRET, timeout: float = 10
) -> IdentityClient:
    return IdentityClient(
        identity_url=ORIGIN,
        config_api_url=CONFIG_API,
        client_id=CLIENT_ID,
        client_secret=Secret(client_secret),
        redirect_uri=REDIRECT_URI,
        scope=SCOPE,
        http=transport,
        timeout=timeout,
        limiter=RateLimiter(1_000_000),
    )


def answering(*responses: Response | Callable[[Request], Any]) -> Starlette:
    """A server that gives these answers in turn, the last one for ever, whatever it is asked."""
    left = list(responses)

    async def endpoint(request: Request) -> Response:
        response = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(response, Response):
            return response
        made = await response(request)
        assert isinstance(made, Response)
        return made

    methods = ["GET", "POST", "PATCH", "DELETE"]
    return Starlette(routes=[Route("/{path:path}", endpoint, methods=methods)])


async def consent(sandbox: Sandbox, authorization_url: str, *, source: str = SOURCE) -> dict[str, str]:
    """Go through login and consent as the workspace's owner does; returns the callback's query."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=sandbox.app), base_url=ORIGIN) as browser:
        answer = await browser.get(authorization_url)
        challenge = _query(answer.headers["location"])["login_challenge"]
        form = {"user": "owner@northwind.example", "login_challenge": challenge}
        answer = await browser.post("/login", data=form)
        answer = await browser.get(answer.headers["location"])
        challenge = _query(answer.headers["location"])["consent_challenge"]
        form = {
            "consent_challenge": challenge,
            "decision": "allow",
            "workspace": source.partition("/sources/")[0],
            "source": source,
        }
        answer = await browser.post("/authorize", data=form)
        answer = await browser.get(answer.headers["location"])
        return _query(answer.headers["location"])


def _query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query, keep_blank_values=True).items()}


async def install(sandbox: Sandbox, identity: IdentityClient) -> InstallGrant:
    """Walk through the sandbox's consent and exchange the code."""
    query = await consent(sandbox, identity.authorization_url(state="s" * 32, code_verifier=VERIFIER))
    return await identity.exchange_code(query["code"], code_verifier=VERIFIER)
