"""Security statements about the authorization request and the callback."""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlmodel import select
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from enable_with_segment.db.control import flow_states
from enable_with_segment.db.control.tables import FlowState
from enable_with_segment.db.encryption import EncryptionKeys, Place
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.demo.browser import Browser
from enable_with_segment.oauth_app.flow.outcomes import FlowStarted
from enable_with_segment.segment_api.errors import SegmentUnavailable
from enable_with_segment.segment_api.identity import IdentityClient
from enable_with_segment.segment_api.secret import Secret
from enable_with_segment.segment_api.urls import BaseUrlRefused
from tests.listening import listening
from tests.oauth_app.conftest import SERVICE, FrontDoor

CALLBACK = f"{SERVICE}/auth/segment/callback"


async def _returned(door: FrontDoor, browser: Browser) -> str:
    answer = await browser.submit(await door.to_consent(browser), button="allow", stop_before=CALLBACK)
    return str(answer.headers["location"])


async def _started(door: FrontDoor) -> tuple[str, FlowStarted]:
    assert door.services.flow is not None
    started = await door.services.flow.starts.start("acct_1")
    assert isinstance(started, FlowStarted)
    return parse_qs(urlsplit(started.url).query)["state"][0], started


async def test_oa_01_states_are_unique_random_and_safe(front_door: FrontDoor) -> None:
    states = {(await _started(front_door))[0] for _ in range(200)}
    assert len(states) == 200
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43,}", state) for state in states)


async def test_oa_02_without_the_flows_cookie_no_token_is_asked_for(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        url = await _returned(front_door, browser)
        async with front_door.client() as http:
            assert (await http.get(url)).status_code == 400
    assert front_door.exchanges == 0


async def test_oa_05_an_old_state_is_refused_although_it_is_stored(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        url = await _returned(front_door, browser)
        front_door.clock.moved = timedelta(minutes=11)
        async with front_door.database.transaction() as session:
            assert await flow_states.find(session, parse_qs(urlsplit(url).query)["state"][0]) is not None
        assert (await browser.open(url)).status_code == 400
    assert front_door.exchanges == 0


async def test_oa_07_the_verifier_differs_per_flow_and_shows_up_nowhere(
    front_door: FrontDoor, encryption: EncryptionKeys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    verifiers = set()
    async with front_door.browser() as browser:
        consents = [await front_door.to_consent(browser) for _ in range(3)]
        for authorize in {hop.url for hop in browser.hops if "code_challenge=" in hop.url}:
            query = parse_qs(urlsplit(authorize).query)
            async with front_door.database.transaction() as session:
                flow = await flow_states.find(session, query["state"][0])
            assert flow is not None
            assert flow.code_verifier_ciphertext is not None
            place = Place("flow_states", "code_verifier_ciphertext", flow.state_hash)
            verifier = encryption.decrypt(flow.code_verifier_ciphertext, place)
            challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
            assert query["code_challenge"] == [challenge]
            verifiers.add(verifier)
        page = await browser.submit(consents[-1], button="allow")
        shown = page.text + caplog.text + str(browser.hops) + str(list(browser.http.cookies.jar))
    assert len(verifiers) == 3
    assert not any(verifier in shown for verifier in verifiers)
    exchange = next(r for r in front_door.sandbox.state.transcript.requests if r.path == "/oauth2/token")
    assert isinstance(exchange.body, dict)
    assert "code_verifier" in exchange.body


async def test_oa_08_a_code_of_another_flow_is_refused(front_door: FrontDoor) -> None:
    async with front_door.browser() as victim, front_door.browser() as attacker:
        stolen = parse_qs(urlsplit(await _returned(front_door, attacker)).query)["code"][0]
        state = parse_qs(urlsplit(await _returned(front_door, victim)).query)["state"][0]
        page = await victim.open(f"{CALLBACK}?code={stolen}&state={state}")
    assert page.status_code == 400
    assert await front_door.installs() == []


@pytest.mark.parametrize("repeated", ["code=x", "state=x", "error=a&error=b", "scope=x"])
async def test_oa_09_repeated_parameters_change_nothing(front_door: FrontDoor, repeated: str) -> None:
    async with front_door.browser() as browser:
        url = await _returned(front_door, browser)
        assert (await browser.reload(f"{url}&{repeated}")).status_code == 400
        assert front_door.exchanges == 0
        assert (await browser.open(url)).url.path.startswith("/status/")


async def test_oa_10_an_issuer_that_is_not_segment_is_refused(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        url = await _returned(front_door, browser)
        assert (await browser.reload(f"{url}&iss=https%3A%2F%2Fevil.example")).status_code == 400
        assert front_door.exchanges == 0
        issuer = front_door.services.settings.segment_identity_url
        assert (await browser.open(f"{url}&iss={issuer}")).url.path.startswith("/status/")


async def test_oa_11_the_redirect_uri_is_the_configured_text_in_both_requests(front_door: FrontDoor) -> None:
    lies = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "Forwarded": "host=evil.example"}
    async with front_door.browser() as browser:
        browser.http.headers.update(lies)
        await front_door.connect(browser)
        authorize = next(hop.url for hop in browser.hops if "/oauth2/auth" in hop.url)
    assert parse_qs(urlsplit(authorize).query)["redirect_uri"] == [CALLBACK]
    exchange = next(r for r in front_door.sandbox.state.transcript.requests if r.path == "/oauth2/token")
    assert isinstance(exchange.body, dict)
    assert exchange.body["redirect_uri"] == CALLBACK


async def test_oa_12_an_error_uses_the_state_up_and_reflects_nothing(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        url = await _returned(front_door, browser)
        state = parse_qs(urlsplit(url).query)["state"][0]
        text = "%3Cscript%3Ealert(1)%3C%2Fscript%3E"
        page = await browser.open(f"{CALLBACK}?error=access_denied&error_description={text}&state={state}")
        assert page.status_code == 403
        assert "alert(1)" not in page.text
        assert (await browser.open(url)).status_code == 400
    async with front_door.database.transaction() as session:
        (flow,) = (await session.exec(select(FlowState))).all()
    assert flow.failure == "access_denied"


async def test_oa_16_our_redirects_are_302_or_303(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        await front_door.connect(browser)
        ours = [hop.status for hop in browser.hops if hop.url.startswith(SERVICE) and 300 <= hop.status < 400]
    assert ours
    assert set(ours) <= {302, 303}


async def test_oa_17_redirects_of_the_token_endpoint_are_not_followed(front_door: FrontDoor) -> None:
    front_door.fault(
        "POST /oauth2/token", times=None, status=307, body="", headers={"Location": "http://127.0.0.1:8889/elsewhere"}
    )
    async with front_door.browser() as browser:
        page = await front_door.connect(browser)
    assert page.status_code in {502, 503}
    assert front_door.requests("/elsewhere") == 0


def _client(identity_url: str) -> IdentityClient:
    return IdentityClient(
        identity_url=identity_url,
        config_api_url="https://platform.example/v1beta",
        client_id="id",
        client_secret=Secret("not-for-everybody"),
        redirect_uri=CALLBACK,
        scope="destination/acme-crm",
    )


def test_oa_17_plain_http_is_refused_beyond_this_machine() -> None:
    with pytest.raises(BaseUrlRefused) as refused:
        _client("http://id.example")
    assert "not-for-everybody" not in str(refused.value)


async def test_oa_17_a_certificate_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    asked: list[str] = []

    async def answer(request: Request) -> Response:
        asked.append(request.url.path)
        return Response("{}")

    certificate, key = _self_signed(tmp_path)
    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])
    async with listening(app, certificate=certificate, key=key) as port:
        client = _client(f"https://localhost:{port}")
        with pytest.raises(SegmentUnavailable):
            await client.exchange_code("code", code_verifier=None)
        await client.aclose()
        async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=str(certificate))) as http:
            assert (await http.get(f"https://localhost:{port}/reached")).status_code == 200
    assert asked == ["/reached"]


def _self_signed(folder: Path) -> tuple[Path, Path]:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate_file, key_file
