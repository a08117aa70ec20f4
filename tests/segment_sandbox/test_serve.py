from __future__ import annotations

import asyncio
import signal
import socket
import sys

import pytest

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_sandbox import Sandbox, SandboxConfig
from enable_with_segment.segment_sandbox.config import DEFAULT_CLIENT_ID, DEFAULT_ENDPOINT
from enable_with_segment.segment_sandbox.serve import NotLoopback, is_loopback, serve
from enable_with_segment.segment_sandbox.server import base_url


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "sandbox.example"])  # noqa: S104
async def test_op_03_a_public_host_is_refused(host: str) -> None:
    with pytest.raises(NotLoopback):
        await serve(SandboxConfig(), host, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_hosts(host: str) -> None:
    assert is_loopback(host)


def test_base_url_of_ipv6() -> None:
    with socket.socket(socket.AF_INET6) as bound:
        bound.bind(("::1", 0))
        assert base_url(bound) == f"http://[::1]:{bound.getsockname()[1]}"


async def test_a_port_in_use_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            await serve(SandboxConfig(), "127.0.0.1", taken.getsockname()[1])


async def test_run_prints_one_line_and_stops_on_sigterm() -> None:
    program = (
        "from segment_sandbox import SandboxConfig; from enable_with_segment.segment_sandbox.serve import run;"
        "run(SandboxConfig.from_environment(), '127.0.0.1', 0)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"SANDBOX_PROFILE": "hostile"},
    )
    assert process.stdout
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        assert line.startswith("Segment sandbox ready on http://127.0.0.1:")
        assert line.endswith(" (profile hostile)\n")
        async with httpx.AsyncClient() as http:
            assert (await http.get(line.split()[4])).status_code == 200
        process.send_signal(signal.SIGTERM)
        out, err = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, out, err) == (0, b"", b"")


async def test_several_sandboxes_listen_side_by_side() -> None:
    async with Sandbox().listening() as first, Sandbox().listening() as second:
        assert first != second
        async with httpx.AsyncClient() as http:
            for url in (first, second):
                assert (await http.get(f"{url}/internal/health")).status_code == 200


def test_configuration_from_the_environment() -> None:
    defaults = SandboxConfig.from_environment({})
    assert defaults == SandboxConfig()
    assert defaults.apps[0].client_id == DEFAULT_CLIENT_ID
    assert defaults.catalog[0].endpoint == DEFAULT_ENDPOINT
    changed = SandboxConfig.from_environment(
        {
            "SANDBOX_ENDPOINT": "http://127.0.0.1:9/hook",
            "SANDBOX_CLIENT_ID": "id",
            "SANDBOX_CLIENT_SECRET": "secret",
            "SANDBOX_REDIRECT_URI": "https://a.example/, https://b.example/",
            "SANDBOX_PROFILE": "documented",
            "SANDBOX_TIME_SCALE": "3600",
            "SANDBOX_SEED": "7",
        }
    )
    app = changed.apps[0]
    assert (app.client_id, app.client_secret) == ("id", "secret")
    assert app.redirect_uris == ("https://a.example/", "https://b.example/")
    assert changed.catalog[0].endpoint == "http://127.0.0.1:9/hook"
    assert (changed.profile, changed.time_scale, changed.seed) == ("documented", 3600.0, 7)


@pytest.mark.parametrize(
    "environment",
    [
        {"SANDBOX_PROFILE": "unknown"},
        {"SANDBOX_TIME_SCALE": "fast"},
        {"SANDBOX_TIME_SCALE": "-1"},
        {"SANDBOX_SEED": "x"},
        {"SANDBOX_REDIRECT_URI": "http://partner.example/"},
    ],
)
def test_bad_environment(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        SandboxConfig.from_environment(environment)


async def test_serve_says_when_it_is_ready_and_ends_when_cancelled() -> None:
    urls: asyncio.Queue[str] = asyncio.Queue()
    task = asyncio.create_task(serve(SandboxConfig(), "127.0.0.1", 0, on_ready=urls.put_nowait))
    async with httpx.AsyncClient() as http:
        url = await asyncio.wait_for(urls.get(), 30)
        assert (await http.get(url)).status_code == 200
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(httpx.ConnectError):
            await http.get(url)
