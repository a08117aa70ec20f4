"""The code exchange as HTTP: contract cases 21 to 33 as far as they are about the wire."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import subprocess
import sys
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_api.errors import InvalidAnswer, SegmentUnavailable, TokenRequestRejected
from enable_with_segment.segment_api.grants import InstallGrant
from enable_with_segment.segment_api.identity import IdentityClient
from enable_with_segment.segment_api.secret import Secret
from enable_with_segment.segment_api.urls import BaseUrlRefused
from enable_with_segment.segment_sandbox import Sandbox, SandboxConfig
from enable_with_segment.segment_sandbox.config import acme_app
from tests.segment_api.wire import (
    CLIENT_ID,
    CLIENT_SECRET,
    CONFIG_API,
    ORIGIN,
    REDIRECT_URI,
    SCOPE,
    SOURCE,
    VERIFIER,
    Wire,
    answering,
    consent,
    identity_client,
    install,
)

GRANT = {
    "access_token": "8PzGc2Nn.rB1uC9pZ",
    "token_type": "bearer",
    "expires_in": 3599,
    "scope": SCOPE,
    "app_name": "apps/412",
    "install_name": "installs/9077",
    "workspace_names": ["workspaces/northwind"],
    "source_names": [SOURCE],
}


async def exchange(*responses: Response) -> tuple[InstallGrant, Wire]:
    """Exchange a code with a server that answers so."""
    wire = Wire(answering(*responses))
    identity = identity_client(wire)
    try:
        return await identity.exchange_code("a.code", code_verifier=None), wire
    finally:
        await identity.aclose()


def test_the_authorization_url_has_everything_that_segment_asks_for() -> None:
    url = urlsplit(identity_client(Wire(answering())).authorization_url(state="s" * 32, code_verifier=VERIFIER))
    challenge = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
    assert f"{url.scheme}://{url.netloc}{url.path}" == f"{ORIGIN}/oauth2/auth"
    assert parse_qs(url.query) == {
        "response_type": ["code"],
        "client_id": [CLIENT_ID],
        "redirect_uri": [REDIRECT_URI],
        "scope": [SCOPE],
        "state": ["s" * 32],
        "code_challenge": [challenge],
        "code_challenge_method": ["S256"],
    }


def test_the_authorization_url_has_no_challenge_without_a_verifier() -> None:
    url = identity_client(Wire(answering())).authorization_url(state="s" * 32, code_verifier=None)
    assert "code_challenge" not in url


async def test_a_whole_exchange_over_a_real_socket() -> None:
    sandbox = Sandbox()
    async with sandbox.listening() as base_url:
        identity = IdentityClient(
            identity_url=base_url,
            config_api_url=f"{base_url}/v1beta",
            client_id=CLIENT_ID,
            client_secret=Secret(CLIENT_SECRET),
            redirect_uri=REDIRECT_URI,
            scope=SCOPE,
        )
        grant = await install(sandbox, identity)
        refreshed = await identity.refresh(grant.install_name)
        await identity.aclose()
    assert grant.source_names == (SOURCE,)
    assert refreshed.access_token != grant.access_token


async def test_case_021_the_exchange_is_a_form_with_credentials_in_basic_only() -> None:
    _, wire = await exchange(JSONResponse(GRANT))
    (sent,) = wire.sent
    assert sent.route == "POST /oauth2/token"
    assert sent.headers["content-type"].partition(";")[0] == "application/x-www-form-urlencoded"
    assert sent.form == {"grant_type": "authorization_code", "code": "a.code", "redirect_uri": REDIRECT_URI}
    assert sent.basic == f"{CLIENT_ID}:{CLIENT_SECRET}"


async def test_case_021_the_verifier_goes_along_when_there_is_one() -> None:
    wire = Wire(answering(JSONResponse(GRANT)))
    await identity_client(wire).exchange_code("a.code", code_verifier=VERIFIER)
    assert wire.sent[0].form["code_verifier"] == VERIFIER


async def test_case_022_the_secret_is_percent_encoded_for_the_token_endpoint_only() -> None:
    secret = "a:b+c d/%é-._~"
    wire = Wire(answering(JSONResponse(GRANT)))
    identity = identity_client(wire, client_secret=secret)
    await identity.exchange_code("a.code", code_verifier=None)
    await identity.refresh("installs/9077")
    exchanged, refreshed = (sent.basic for sent in wire.sent)
    encoded = exchanged.removeprefix(f"{CLIENT_ID}:")
    assert encoded == "a%3Ab%2Bc%20d%2F%25%C3%A9-._~"
    assert unquote(encoded) == secret
    assert refreshed == f"{CLIENT_ID}:{secret}"


async def test_case_022_a_segment_that_decodes_the_pair_accepts_it() -> None:
    secret = "a:b+c/%-._~"
    sandbox = Sandbox(SandboxConfig(apps=(acme_app(client_secret=secret),)))
    grant = await install(sandbox, identity_client(Wire(sandbox.app), client_secret=secret))
    assert grant.install_name.startswith("installs/")


@pytest.mark.parametrize("token_type", ["bearer", "Bearer", "BEARER"])
async def test_case_023_the_token_type_counts_in_any_case(token_type: str) -> None:
    grant, _ = await exchange(JSONResponse(GRANT | {"token_type": token_type}))
    assert grant.access_token == GRANT["access_token"]


async def test_case_024_the_life_of_the_token_is_read_from_the_answer() -> None:
    grant, _ = await exchange(JSONResponse(GRANT))
    assert grant.expires_in == 3599


async def test_case_024_a_token_without_a_stated_life_lives_an_hour() -> None:
    grant, _ = await exchange(JSONResponse({k: v for k, v in GRANT.items() if k != "expires_in"}))
    assert grant.expires_in == 3600


async def test_case_025_every_name_of_the_install_is_read() -> None:
    grant, _ = await exchange(JSONResponse(GRANT))
    assert grant == InstallGrant(
        access_token="8PzGc2Nn.rB1uC9pZ",
        expires_in=3599,
        scope=SCOPE,
        app_name="apps/412",
        install_name="installs/9077",
        workspace_name="workspaces/northwind",
        source_names=(SOURCE,),
    )


async def test_case_026_a_grant_without_sources_is_a_grant() -> None:
    answer = {k: v for k, v in GRANT.items() if k != "source_names"} | {"scope": "workspace"}
    grant, _ = await exchange(JSONResponse(answer))
    assert (grant.source_names, grant.scope) == ((), "workspace")


async def test_case_027_two_sources_keep_their_order() -> None:
    other = "workspaces/northwind/sources/mobile-prod"
    grant, _ = await exchange(JSONResponse(GRANT | {"source_names": [SOURCE, other]}))
    assert grant.source_names == (SOURCE, other)


async def test_case_028_a_refused_code_is_not_sent_again() -> None:
    wire = Wire(answering(JSONResponse({"error": "invalid_grant", "error_description": "used"}, 400)))
    with pytest.raises(TokenRequestRejected) as caught:
        await identity_client(wire).exchange_code("a.code", code_verifier=None)
    assert (caught.value.error, caught.value.description, caught.value.status) == ("invalid_grant", "used", 400)
    assert len(wire.sent) == 1


async def test_case_028_the_sandbox_refuses_a_used_code() -> None:
    sandbox = Sandbox()
    identity = identity_client(Wire(sandbox.app))
    query = await consent(sandbox, identity.authorization_url(state="s" * 32, code_verifier=None))
    await identity.exchange_code(query["code"], code_verifier=None)
    with pytest.raises(TokenRequestRejected, match=r"invalid_grant|install already exists"):
        await identity.exchange_code(query["code"], code_verifier=None)


async def test_case_029_the_hint_about_the_redirect_uri_is_kept() -> None:
    body = {"error": "invalid_request", "error_description": "missing", "error_hint": "The redirect_uri differs."}
    with pytest.raises(TokenRequestRejected) as caught:
        await exchange(JSONResponse(body, 400))
    assert caught.value.hint == "The redirect_uri differs."


async def test_case_030_a_wrong_secret_is_told_without_telling_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    sandbox = Sandbox()
    identity = identity_client(Wire(sandbox.app), client_secret="not-the-secret")
    query = await consent(sandbox, identity.authorization_url(state="s" * 32, code_verifier=None))
    with pytest.raises(TokenRequestRejected) as caught:
        await identity.exchange_code(query["code"], code_verifier=None)
    assert (caught.value.error, caught.value.status) == ("invalid_client", 401)
    told = caplog.text + repr(caught.value) + str(caught.value) + repr(identity)
    assert "not-the-secret" not in told
    assert base64.b64encode(b"not-the-secret").decode() not in told


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_case_031_an_unavailable_token_endpoint_is_asked_once_more(status: int) -> None:
    grant, wire = await exchange(PlainTextResponse("upstream", status), JSONResponse(GRANT))
    assert grant.install_name == "installs/9077"
    assert [sent.form["code"] for sent in wire.sent] == ["a.code", "a.code"]


async def test_case_031_two_failures_are_enough() -> None:
    wire = Wire(answering(JSONResponse({"error": "server_error"}, 500)))
    with pytest.raises(SegmentUnavailable) as caught:
        await identity_client(wire).exchange_code("a.code", code_verifier=None)
    assert (caught.value.status, len(wire.sent)) == (500, 2)


async def test_case_031_a_lost_connection_is_asked_once_more() -> None:
    def lose(request: httpx.Request) -> httpx.Response | None:
        raise httpx.ReadError("cut", request=request)

    wire = Wire(answering(JSONResponse(GRANT)), before=lose)
    with pytest.raises(SegmentUnavailable, match="ReadError"):
        await identity_client(wire).exchange_code("a.code", code_verifier=None)
    assert len(wire.sent) == 2


async def test_case_031_an_answer_that_never_comes_is_not_waited_for() -> None:
    async def never(_: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    wire = Wire(answering(never))
    with pytest.raises(SegmentUnavailable, match="did not answer"):
        await identity_client(wire, timeout=0.02).exchange_code("a.code", code_verifier=None)
    assert len(wire.sent) == 2


async def test_case_031_a_rate_limited_exchange_is_not_pressed() -> None:
    wire = Wire(answering(PlainTextResponse("slow down", 429, {"Retry-After": "7"})))
    with pytest.raises(SegmentUnavailable) as caught:
        await identity_client(wire).exchange_code("a.code", code_verifier=None)
    assert (caught.value.retry_after, len(wire.sent)) == (7, 1)


@pytest.mark.parametrize(
    "response",
    [
        PlainTextResponse("<html>hello</html>"),
        Response(b"\xff\xfe{", media_type="application/json"),
        JSONResponse(["a", "list"]),
        PlainTextResponse("nope", 418),
        Response(b"[" * 60_000, media_type="application/json"),
        RedirectResponse("https://elsewhere.example/", 302),
        RedirectResponse("https://elsewhere.example/", 307),
    ],
)
async def test_case_032_an_answer_that_is_no_oauth_answer_is_told_apart(response: Response) -> None:
    wire = Wire(answering(response))
    with pytest.raises(InvalidAnswer):
        await identity_client(wire).exchange_code("a.code", code_verifier=None)
    assert len(wire.sent) == 1


async def test_case_032_a_large_answer_is_not_read_to_its_end() -> None:
    wire = Wire(answering(Response(b" " * (64 * 1024 + 1), media_type="application/json")))
    with pytest.raises(InvalidAnswer, match="larger than 65536 bytes"):
        await identity_client(wire).exchange_code("a.code", code_verifier=None)
    assert len(wire.sent) == 1


async def test_case_032_a_compressed_answer_is_not_unpacked() -> None:
    response = Response(b"\x1f\x8b...", headers={"Content-Encoding": "gzip"}, media_type="application/json")
    with pytest.raises(InvalidAnswer, match="compressed"):
        await exchange(response)


async def test_case_033_no_secret_shows_when_a_grant_is_printed_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    sandbox = Sandbox()
    wire = Wire(sandbox.app)
    identity = identity_client(wire)
    grant = await install(sandbox, identity)
    refreshed = await identity.refresh(grant.install_name)
    told = caplog.text + repr(grant) + repr(refreshed) + repr(Secret(CLIENT_SECRET)) + str(Secret(CLIENT_SECRET))
    for secret in (grant.access_token, refreshed.access_token, CLIENT_SECRET, VERIFIER, wire.sent[0].form["code"]):
        assert secret not in told
    assert all(secret not in sent.path for sent in wire.sent for secret in (CLIENT_SECRET, grant.access_token))


async def test_install_already_exists_is_recognised_whatever_the_status() -> None:
    for status, body in [
        (409, {"error": "install already exists", "code": 6}),
        (400, {"error": "invalid_request", "error_description": "Install already exists"}),
        (500, {"error": "server_error", "error_hint": "INSTALL ALREADY EXISTS for this app"}),
        (403, {"error": "install_already_exists"}),
        (400, {"error": "invalid_request", "message": "install already exists"}),
    ]:
        wire = Wire(answering(JSONResponse(body, status)))
        with pytest.raises(TokenRequestRejected) as caught:
            await identity_client(wire).exchange_code("a.code", code_verifier=None)
        assert caught.value.install_already_exists
        assert len(wire.sent) == 1


@pytest.mark.parametrize("url", ["http://id.segmentapis.com", "ftp://localhost", "https://user:pw@id.example"])
def test_secrets_are_sent_to_no_unsafe_origin(url: str) -> None:
    with pytest.raises(BaseUrlRefused, match="SEGMENT_IDENTITY_URL"):
        IdentityClient(
            identity_url=url,
            config_api_url=CONFIG_API,
            client_id=CLIENT_ID,
            client_secret=Secret(CLIENT_SECRET),
            redirect_uri=REDIRECT_URI,
            scope=SCOPE,
        )


async def test_the_client_follows_no_redirect_with_its_credentials() -> None:
    wire = Wire(answering(RedirectResponse("http://127.0.0.1:1/steal", 307)))
    with pytest.raises(InvalidAnswer):
        await identity_client(wire).refresh("installs/9077")
    assert len(wire.sent) == 1


def test_importing_the_client_warns_about_nothing() -> None:
    command = [sys.executable, "-W", "error", "-c", "import enable_with_segment.segment_api.identity"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own code
    assert (finished.returncode, finished.stderr) == (0, "")


@given(code=st.text(max_size=80).filter(bool))
def test_whatever_a_callback_brings_as_a_code_is_sent_as_it_is(code: str) -> None:
    async def run() -> None:
        wire = Wire(answering(JSONResponse(GRANT)))
        identity = identity_client(wire)
        await identity.exchange_code(code, code_verifier=None)
        await identity.aclose()
        assert wire.sent[0].form["code"] == code

    asyncio.run(run())
