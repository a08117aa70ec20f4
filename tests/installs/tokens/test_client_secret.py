"""Where the client secret goes, and how often: to two origins, in one header, once for each call (TK-12, TK-15)."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_api.config_api import ConfigApi
from enable_with_segment.segment_api.errors import SegmentError
from enable_with_segment.segment_api.identity import IdentityClient
from enable_with_segment.segment_api.secret import Secret
from enable_with_segment.segment_api.urls import BaseUrlRefused
from tests.segment_api.wire import DESTINATION, SCOPE

CLIENT_SECRET = "s3cret-with~tilde_0815"
IDENTITY, CONFIG = "https://id.segment.test", "https://platform.segment.test/v1beta"
GRANT = {
    "access_token": "first.part",
    "token_type": "bearer",
    "expires_in": 3599,
    "scope": SCOPE,
    "install_name": "installs/9077",
    "workspace_names": ["workspaces/northwind"],
    "source_names": ["workspaces/northwind/sources/web-prod"],
}


def client(
    transport: httpx.AsyncBaseTransport | None, *, identity: str = IDENTITY, config: str = CONFIG
) -> IdentityClient:
    return IdentityClient(
        identity_url=identity,
        config_api_url=config,
        client_id="client",
        client_secret=Secret(CLIENT_SECRET),
        redirect_uri="http://localhost:8888/auth/segment/callback",
        scope=SCOPE,
        http=transport,
        timeout=5,
    )


def carries_secret(request: httpx.Request) -> bool:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    return scheme == "Basic" and CLIENT_SECRET in base64.b64decode(credentials).decode()


async def test_tk_12_the_client_secret_goes_to_two_addresses_and_into_no_url_or_body() -> None:
    sent: list[httpx.Request] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={**GRANT, "name": DESTINATION, "enabled": True})

    transport = httpx.MockTransport(answer)
    identity, config_api = client(transport), ConfigApi(CONFIG, transport=transport)
    authorization_url = identity.authorization_url(state="s" * 32, code_verifier="v" * 43)
    await identity.exchange_code("code", code_verifier="v" * 43)
    await identity.refresh("installs/9077")
    await config_api.get_destination("token", DESTINATION)
    assert [str(request.url) for request in sent if carries_secret(request)] == [
        f"{IDENTITY}/oauth2/token",
        f"{CONFIG}/installs/9077/token",
    ]
    assert CLIENT_SECRET not in authorization_url
    for request in sent:
        assert CLIENT_SECRET not in str(request.url)
        assert CLIENT_SECRET.encode() not in request.content
    await identity.aclose()
    await config_api.aclose()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_tk_12_a_redirect_takes_the_client_secret_nowhere(status: int) -> None:
    asked: list[str] = []

    async def redirect(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(status, headers={"Location": "https://elsewhere.test/"})

    identity = client(httpx.MockTransport(redirect))
    with pytest.raises(SegmentError):
        await identity.exchange_code("code", code_verifier=None)
    with pytest.raises(SegmentError):
        await identity.refresh("installs/9077")
    assert set(asked) == {"id.segment.test", "platform.segment.test"}
    await identity.aclose()


@pytest.mark.parametrize("insecure", ["http://id.segment.test", "https://user:pass@id.segment.test"])
def test_tk_12_the_client_secret_is_never_sent_in_clear(insecure: str) -> None:
    with pytest.raises(BaseUrlRefused):
        client(None, identity=insecure)
    with pytest.raises(BaseUrlRefused):
        client(None, config=insecure)


def test_tk_12_a_secret_prints_masked() -> None:
    secret = Secret(CLIENT_SECRET)
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", "%s" % secret, repr({"a": [secret]})):  # noqa: UP031
        assert CLIENT_SECRET not in shown


@asynccontextmanager
async def cutting_server(received: list[bytes]) -> AsyncIterator[str]:
    """A server on a socket that reads a request and cuts the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_tk_15_the_transport_sends_a_refresh_once_and_asks_for_no_cached_answer() -> None:
    received: list[bytes] = []
    async with cutting_server(received) as base:
        identity = client(None, config=f"{base}/v1beta")
        with pytest.raises(SegmentError):
            await identity.refresh("installs/9077")
        await identity.aclose()
    (request,) = received
    assert request.startswith(b"GET /v1beta/installs/9077/token HTTP/1.1\r\n")
    assert b"if-none-match" not in request.lower()
