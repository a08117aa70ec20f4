"""``demo``: the whole journey on this machine, told as it happens."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from enable_with_segment.db.encryption import generate_encryption_key
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.cli.output import print_json, run, settings_or_exit, stop
from enable_with_segment.oauth_app.demo.journey import Journey, Result
from enable_with_segment.oauth_app.demo.narrator import Narrator
from enable_with_segment.oauth_app.demo.processes import DemoFailed, Process, free_port
from enable_with_segment.oauth_app.runtime.factories import connect_links_of, sign_in_links_of
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import open_stores
from enable_with_segment.segment_sandbox.config import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET

_FOLDER = Path("data/demo")


def demo(
    once: Annotated[bool, typer.Option("--once", help="Exit after the journey instead of serving on.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON line on standard output.")] = False,
    port: Annotated[int, typer.Option(help="The service's port; another one is taken if it is in use.")] = 8888,
    sandbox_port: Annotated[int, typer.Option(help="The sandbox's port, likewise.")] = 8889,
) -> None:
    """Run a local Segment and the service, and walk a customer's whole journey, over real HTTP.

    Everything it writes is under data/demo, which each run makes anew.

    Example: enable-with-segment demo --once --json
    """
    if not _has("examples.acme_crm") or not _has("segment.analytics"):
        stop(["the demo needs the example partner and Segment's own SDK: run make demo in a clone of the repository"])
    console = Console(stderr=as_json, highlight=False)
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    try:
        service, sandbox = free_port(port), free_port(sandbox_port)
        environment = _environment(service, sandbox)
        os.environ.update(environment)
        _write_environment(environment)
        result = run(_demo(settings_or_exit(), console, service=service, sandbox=sandbox, once=once))
    except DemoFailed as problem:
        if as_json:
            print_json(Result().as_json())
        stop([str(problem)], 1)
    if as_json:
        print_json(result.as_json())
    if not result.ok:
        raise typer.Exit(1)


async def _demo(settings: Settings, console: Console, *, service: int, sandbox: int, once: bool) -> Result:
    narrator = Narrator(console)
    sandbox_url = f"http://127.0.0.1:{sandbox}"
    processes = {
        "sandbox": Process("sandbox", ["sandbox", "--port", str(sandbox)], {}, _FOLDER / "sandbox.log"),
        "service": Process("service", ["serve", "--port", str(service)], {}, _FOLDER / "service.log"),
    }
    async with AsyncExitStack() as stack:
        with narrator.step("A local Segment and the service start"):
            for name, health in (("sandbox", f"{sandbox_url}/"), ("service", f"http://127.0.0.1:{service}/readyz")):
                stack.push_async_callback(processes[name].stop)
                await processes[name].start(health)
                narrator.say(f"{name:<8} {health.rpartition('/')[0]}   log: {processes[name].log}")
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=15))
        result = await Journey(settings, sandbox_url, narrator, http).walk()
        narrator.table("What happened", _summary(result))
        if not once:
            await _serve_on(settings, narrator, sandbox_url, result)
    return result


async def _serve_on(settings: Settings, narrator: Narrator, sandbox_url: str, result: Result) -> None:
    async with open_stores(settings) as stores:
        link = await connect_links_of(settings, stores.control).create("acct_contoso", actor="demo")
        way_in = sign_in_links_of(settings, stores.control)
        dashboard = settings.base_url if way_in is None else await way_in.mint()
    narrator.addresses(
        "Still running until Ctrl-C. Open:",
        [
            ("connect as another customer; log in as Contoso owner", link.url),
            ("the status page", result.status_url or ""),
            ("the operators' dashboard; the link works once, within 15 minutes", dashboard),
            ("the sandbox", sandbox_url),
            ("the command line", f"set -a; . {_FOLDER}/environment; set +a; {program()} events list"),
        ],
    )
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, ended.set)
    await ended.wait()
    narrator.say("Stopping.")


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def program() -> str:
    """How this shell finds the command line: ``make demo`` does not put ``.venv/bin`` on the path."""
    name = "enable-with-segment"
    beside = Path(sys.executable).with_name(name)
    if shutil.which(name) is not None or not beside.exists():
        return name
    return os.path.relpath(beside)


def _summary(result: Result) -> list[tuple[str, str]]:
    yes = {True: "yes", False: "no"}
    return [
        ("install", str(result.install)),
        ("destination enabled in Segment", yes[result.destination_enabled]),
        ("events sent, received, handled", f"{result.events_sent}, {result.events_received}, {result.events_handled}"),
        ("contact deleted on request", yes[result.deleted]),
        ("seconds", str(result.seconds)),
    ]


def _environment(service: int, sandbox: int) -> dict[str, str]:
    base_url, segment = f"http://localhost:{service}", f"http://127.0.0.1:{sandbox}"
    return {
        "BASE_URL": base_url,
        "PARTNER_NAME": "Acme CRM",
        "DATABASE_URL": f"sqlite+aiosqlite:///{_FOLDER}/control.db",
        "EVENT_LOG_URL": f"sqlite+aiosqlite:///{_FOLDER}/events.db",
        "ENCRYPTION_KEYS": generate_encryption_key(),
        "ENCRYPTION_KEYS_FILE": "",  # an empty value is none, whatever this shell has
        "ENCRYPTION_KMS_URL": "",
        "ENCRYPTION_KMS_TOKEN": "",
        "SEGMENT_CLIENT_ID": DEFAULT_CLIENT_ID,
        "SEGMENT_CLIENT_SECRET": DEFAULT_CLIENT_SECRET,
        "SEGMENT_DESTINATION": "acme-crm",
        "SEGMENT_IDENTITY_URL": segment,
        "SEGMENT_CONFIG_API_URL": f"{segment}/v1beta",
        "HANDLERS": "examples.acme_crm.handlers:crm",
        "ACME_CRM_DATABASE": f"{_FOLDER}/acme_crm.db",
        "SANDBOX_ENDPOINT": f"http://127.0.0.1:{service}/subscriptions/acme-crm",
        "SANDBOX_REDIRECT_URI": f"{base_url}/auth/segment/callback",
        "SANDBOX_PROFILE": "documented",
    }


def _write_environment(environment: dict[str, str]) -> None:
    """Keep the settings of this run for the command line; readable by its owner only, since keys are in it."""
    path = _FOLDER / "environment"
    path.touch(mode=0o600)
    path.write_text("".join(f"{name}='{value}'\n" for name, value in environment.items()), encoding="utf-8")
