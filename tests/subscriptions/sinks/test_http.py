"""The HTTP sink, against a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from enable_with_segment import HttpSink, InstallContext, InvalidEventPayload, RetryError
from enable_with_segment.subscriptions.sinks.http import judge_status, parse_retry_after
from enable_with_segment.subscriptions.sinks.standard_webhooks import new_secret, verify
from tests.listening import listening
from tests.subscriptions.sinks.conftest import NOON, event
from tests.subscriptions.sinks.receiver import endpoint

SECRET = new_secret()
LOOPBACK = ["127.0.0.0/8"]


async def test_each_event_is_posted_and_signed(install: InstallContext) -> None:
    async with endpoint() as target:
        sink = HttpSink(f"{target.url}/events", SECRET, allow=LOOPBACK)
        events = [event("track", event="Paid", messageId="m-1", properties={"Größe": 1.5}), event("delete")]
        assert await sink.write(events[:1], install) == [None]
        assert await sink.erase(events[1:], install) == [None]
        await sink.aclose()
    (path, headers, body), (_, _, deletion) = target.requests
    verify(SECRET, headers, body, now=float(headers["webhook-timestamp"]))
    sent: dict[str, Any] = json.loads(body)
    assert path == "/events"
    assert (sent["type"], sent["timestamp"]) == ("track", NOON.isoformat())
    assert sent["data"]["account"] == "acme"
    assert sent["data"]["payload"]["properties"] == {"Größe": 1.5}
    assert json.loads(deletion)["data"]["user_id"] == "u-1"


async def test_the_id_is_the_same_on_every_retry_and_another_for_another_event(install: InstallContext) -> None:
    async with endpoint() as target:
        sink = HttpSink(target.url, SECRET, allow=LOOPBACK)
        first, second = event("track", event="A", messageId="m-1"), event("track", event="A", messageId="m-2")
        await sink.write([first], install)
        await sink.write([first], install)
        await sink.write([second], install)
        await sink.write([first], InstallContext("acme", "acme-crm", "ins_2"))
        await sink.aclose()
    ids = [headers["webhook-id"] for _, headers, _ in target.requests]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


async def test_each_event_gets_its_own_answer(install: InstallContext) -> None:
    async with endpoint() as target:
        target.answers.extend([(503, {"Retry-After": "120"})])
        sink = HttpSink(target.url, SECRET, allow=LOOPBACK)
        (failure,) = await sink.write([event("track", event="A")], install)
        assert isinstance(failure, RetryError)
        assert failure.retry_after == timedelta(seconds=120)
        target.answers.append((422, {}))
        (failure,) = await sink.write([event("track", event="A")], install)
        assert isinstance(failure, InvalidEventPayload)
        await sink.aclose()
    sink = HttpSink(target.url, SECRET, allow=LOOPBACK)  # nobody listens any more
    (failure,) = await sink.write([event("track", event="A")], install)
    assert isinstance(failure, RetryError)
    assert "ConnectError" in str(failure)
    await sink.aclose()


@pytest.mark.parametrize("status", [400, 405, 413, 414, 415, 422, 501])
def test_what_the_same_request_would_get_again_is_final(status: int) -> None:
    assert isinstance(judge_status(status, None, now=NOON), InvalidEventPayload)


@pytest.mark.parametrize("status", [301, 302, 401, 403, 404, 408, 410, 425, 429, 500, 502, 503, 504])
def test_everything_else_that_is_no_success_is_tried_again(status: int) -> None:
    assert isinstance(judge_status(status, None, now=NOON), RetryError)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30),
        ("0", 0),
        (" 5 ", 5),
        ("99999999999999", 86_400),
        ("Mon, 02 Mar 2026 12:01:00 GMT", 60),
        ("Mon, 02 Mar 2026 11:00:00 GMT", 0),
        ("Mon, 02 Mar 2036 11:00:00 GMT", 86_400),
        ("soon", None),
        ("-1", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_in_both_forms(value: str | None, seconds: int | None) -> None:
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert parse_retry_after(value, now=NOON) == expected


async def test_op_04_a_private_endpoint_is_refused_without_a_request(install: InstallContext) -> None:
    async with endpoint() as target:
        port = target.url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "[::1]"):
            sink = HttpSink(f"https://{host}:{port}", SECRET)
            (failure,) = await sink.write([event("track", event="A")], install)
            assert isinstance(failure, RetryError)
            assert "not on the public internet" in str(failure)
            await sink.aclose()
    assert target.requests == []


async def test_op_04_a_name_that_resolves_to_a_private_address_is_refused(install: InstallContext) -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["169.254.169.254"]

    sink = HttpSink("https://innocent.example", SECRET, resolve=resolve)
    (failure,) = await sink.write([event("track", event="A")], install)
    assert "innocent.example is not on the public internet" in str(failure)
    await sink.aclose()


async def test_op_04_a_name_that_changes_its_mind_is_looked_up_once_and_that_address_is_used(
    install: InstallContext,
) -> None:
    answers = [["127.0.0.1"], ["10.0.0.1"]]

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return answers.pop(0)

    async with endpoint() as target:
        port = target.url.rpartition(":")[2]
        sink = HttpSink(f"http://moving.example:{port}", SECRET, allow=LOOPBACK, resolve=resolve)
        assert await sink.write([event("track", event="A")], install) == [None]
        assert target.requests[0][1]["host"] == f"moving.example:{port}"
        (failure,) = await sink.write([event("track", event="A")], install)
        assert "not on the public internet" in str(failure)
        await sink.aclose()
    assert len(target.requests) == 1


async def test_op_04_redirects_are_checked_again(install: InstallContext) -> None:
    async def resolve(host: str, _port: int) -> Sequence[str]:
        return ["10.0.0.1"] if host == "inside.example" else ["127.0.0.1"]

    async with endpoint() as target:
        sink = HttpSink(target.url, SECRET, allow=LOOPBACK, resolve=resolve)
        target.answers.append((307, {"Location": "/moved"}))
        assert await sink.write([event("track", event="A")], install) == [None]
        assert [path for path, _, _ in target.requests] == ["/", "/moved"]
        assert target.requests[0][2] == target.requests[1][2]
        for location in (
            "http://inside.example/",
            "http://user:x@127.0.0.1/",
            "https://127.0.0.1/",
            "file:///etc/passwd",
        ):
            target.answers.append((308, {"Location": location}))
            (failure,) = await sink.write([event("track", event="A")], install)
            assert isinstance(failure, RetryError)
        target.answers.extend([(307, {"Location": "/again"})] * 10)
        (failure,) = await sink.write([event("track", event="A")], install)
        assert "redirects" in str(failure)
        target.answers.clear()
        target.answers.append((302, {"Location": "/elsewhere"}))
        (failure,) = await sink.write([event("track", event="A")], install)
        assert "redirects" in str(failure)
        await sink.aclose()


@pytest.mark.parametrize(
    "url", ["http://partner.example", "ftp://partner.example", "https://", "https://u:p@x.example"]
)
def test_an_url_that_cannot_be_used_is_refused_when_it_is_given(url: str) -> None:
    with pytest.raises(ValueError, match="https URL"):
        HttpSink(url, SECRET)


async def test_an_address_of_ipv6_is_connected_to_as_well(install: InstallContext) -> None:
    taken: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["::ffff:127.0.0.1"]

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        sink = HttpSink(f"http://six.example:{port}/", SECRET, allow=LOOPBACK, resolve=resolve)
        assert await sink.write([event("track", event="A")], install) == [None]
        await sink.aclose()
    assert f"host: six.example:{port}".encode() in taken[0].lower()


async def test_op_04_the_certificate_has_to_be_the_names_although_the_connection_goes_to_an_address(
    install: InstallContext, tmp_path: Path
) -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    async def take(_request: Request) -> Response:
        return Response(status_code=204)

    certificate, key = certificate_for("sink.example", tmp_path)
    trusting = ssl.create_default_context(cafile=str(certificate))
    app = Starlette(routes=[Route("/", take, methods=["POST"])])
    async with listening(app, certificate=certificate, key=key) as port:
        for host, tls, reached in (
            ("sink.example", trusting, True),
            ("other.example", trusting, False),
            ("sink.example", None, False),
        ):
            sink = HttpSink(f"https://{host}:{port}", SECRET, allow=LOOPBACK, tls=tls, resolve=resolve)
            (failure,) = await sink.write([event("track", event="A")], install)
            assert (failure is None) is reached, host
            await sink.aclose()


def certificate_for(name: str, folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


class Raw:
    """A server on a socket that answers each request with bytes, and counts connections."""

    def __init__(self, answers: list[bytes], *, pause: float = 0.0) -> None:
        self.answers, self.pause = answers, pause
        self.connections = self.requests = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])  # type: ignore[index]
                await reader.readexactly(length)
                answer = self.answers[min(self.requests, len(self.answers) - 1)]
                self.requests += 1
                for byte in (answer[start : start + 1] for start in range(len(answer))) if self.pause else (answer,):
                    writer.write(byte)
                    await writer.drain()
                    await asyncio.sleep(self.pause)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def raw(answers: list[bytes], *, pause: float = 0.0) -> AsyncIterator[tuple[Raw, str]]:
    made = Raw(answers, pause=pause)
    server = await asyncio.start_server(made.take, "127.0.0.1", 0)
    try:
        yield made, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        await asyncio.sleep(0.01)  # for connections that the client has closed


GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def test_connections_are_used_again(install: InstallContext) -> None:
    async with raw([GOOD]) as (server, url):
        sink = HttpSink(url, SECRET, allow=LOOPBACK)
        for _ in range(10):
            assert await sink.write([event("track", event="A") for _ in range(16)], install) == [None] * 16
        await sink.aclose()
    assert server.requests == 160
    assert server.connections <= 8


@pytest.mark.parametrize(
    "odd",
    [
        b"HTTP/1.1 307 Go\r\nlocation: http://\xff.example/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 307 Go\r\nlocation: http://xn--a" + b"a" * 300 + b"/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 308 Go\r\nlocation: http://[::1/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200\r\ncontent-length: nine\r\n\r\n",
        b"HTTP/1.1 503 Later\r\nretry-after: Mon, 99 Foo 99999 99:99:99\r\ncontent-length: 0\r\n\r\n",
        b"no http at all\r\n\r\n",
    ],
)
async def test_one_odd_answer_is_that_events_alone(install: InstallContext, odd: bytes) -> None:
    async with raw([odd, GOOD]) as (_, url):
        sink = HttpSink(url, SECRET, allow=LOOPBACK, timeout_seconds=5)
        results = await sink.write([event("track", event="A") for _ in range(9)], install)
        await sink.aclose()
    assert results.count(None) == 8
    (failure,) = [result for result in results if result is not None]
    assert isinstance(failure, RetryError)


async def test_an_answer_that_drips_is_ended_after_the_time_for_one_event(install: InstallContext) -> None:
    async with raw([GOOD], pause=0.1) as (_, url):
        sink = HttpSink(url, SECRET, allow=LOOPBACK, timeout_seconds=0.5)
        (failure,) = await sink.write([event("track", event="A")], install)
        await sink.aclose()
    assert isinstance(failure, RetryError)
    assert str(failure) == "the endpoint did not answer within 0.5 s"
