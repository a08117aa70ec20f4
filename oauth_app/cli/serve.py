"""``serve``: the service itself."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import urllib.request
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn
from urllib.parse import urlsplit

import typer
import uvicorn
from uvicorn.supervisors import Multiprocess

from enable_with_segment.db.store_url import StoreUrl
from enable_with_segment.oauth_app.cli.output import run, settings_or_exit, stop
from enable_with_segment.oauth_app.observability.logs import configure_logging
from enable_with_segment.oauth_app.runtime.factories import sign_in_links_of
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.settings_typos import misspelt_settings
from enable_with_segment.oauth_app.runtime.stores import open_stores
from enable_with_segment.oauth_app.runtime.wiring import check_service
from enable_with_segment.oauth_app.web.application import create_app
from enable_with_segment.subscriptions.receiving.server.accepting import LOOP

HTTP = (
    "enable_with_segment.subscriptions.receiving.server.protocol:DeliveryProtocol" if find_spec("httptools") else "auto"
)
"""What uvicorn is told to use for HTTP; by name, so that it can be handed to other processes."""
KEEP_ALIVE_SECONDS = 75
"""How long a connection may rest. Whoever closes one may do so while the next delivery is on its way, and then nobody
answers that. So it is to be the sender, or the proxy before us, and proxies do it after 60 s."""
_ROLE_VARIABLE = "ENABLE_WITH_SEGMENT_ROLE"


class RoleName(StrEnum):
    """What this process does."""

    ALL = "all"
    WEB = "web"
    WORKER = "worker"


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8888,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes; more than one needs PostgreSQL.")] = 1,
    role: Annotated[RoleName, typer.Option(help="all, or web and worker apart (PostgreSQL).")] = RoleName.ALL,
) -> None:
    """Run the service: the pages, the webhook, and the dispatcher.

    Example: HANDLERS=acme.handlers:crm enable-with-segment serve --host 0.0.0.0
    """
    settings = _reached_at(port)
    for problem in misspelt_settings(Path.cwd()):
        typer.echo(f"warning: {problem}", err=True)
    if (workers > 1 or role is not RoleName.ALL) and _uses_sqlite(settings):
        stop(["--workers and --role need PostgreSQL: set DATABASE_URL to postgresql+asyncpg://..."])
    configure_logging(settings.log_level, settings.log_format)
    run(check_service(settings))
    run(_show_way_in(settings))
    ready = f"enable-with-segment ready on http://{host}:{port} (role {role.value})"
    config = server_config(host, port, workers=workers)
    os.environ[_ROLE_VARIABLE] = role.value
    if workers > 1:
        _run_many(config, ready)
        return
    server = _AnnouncingServer(config, ready)
    # uvicorn raises the signal that stopped it once more, to whoever handled it before: that makes the exit clean.
    signal.signal(signal.SIGTERM, _exit_cleanly)
    server.run()
    if not server.started:
        stop([f"the service could not start on {host}:{port}; the log above says why"], 1)


def server_config(host: str, port: int, *, workers: int) -> uvicorn.Config:
    """Return how the server processes are set up."""
    return uvicorn.Config(
        "enable_with_segment.oauth_app.cli.serve:application",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        timeout_graceful_shutdown=10,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        # A sender that finds the queue of new connections full waits for seconds before it tries again.
        backlog=8192,
        loop=LOOP,
        http=HTTP,
    )


def application() -> object:
    """Build the application in a server process, from the environment."""
    # What was imported stays until the end: the collector need not look at it each time, nor as often as it does.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    settings = settings_or_exit()
    configure_logging(settings.log_level, settings.log_format)
    role = os.environ.get(_ROLE_VARIABLE, "all")
    return create_app(settings, "web" if role == "web" else "worker" if role == "worker" else "all")


@dataclass(frozen=True, slots=True)
class OwnAddress:
    """What to go on with.

    Attributes:
        base_url: to be taken for BASE_URL; ``None`` where it stays as it is.
        told: a sentence for whoever starts the service, if there is something to say.
    """

    base_url: str | None = None
    told: str | None = None


def own_address(settings: Settings, port: int) -> OwnAddress:
    """Take the port that is served into the BASE_URL that nobody set, and doubt one that names another.

    Only on this machine: a public address leads to the service by way of a proxy.
    """
    named = urlsplit(settings.base_url).port or (443 if settings.secure_cookies else 80)
    if not settings.on_loopback or named == port:
        return OwnAddress()
    if "base_url" in settings.model_fields_set:
        return OwnAddress(
            told=f"BASE_URL is {settings.base_url} and this serves port {port}: links lead to the service only if "
            f"something passes port {named} on to it."
        )
    base_url = f"http://localhost:{port}"
    return OwnAddress(
        base_url,
        f"BASE_URL is not set, so links lead to {base_url}. Other commands cannot know that: set BASE_URL={base_url} "
        "for them.",
    )


def _reached_at(port: int) -> Settings:
    """Read the settings; where nobody set BASE_URL, it names the port, here and in the server processes."""
    settings = settings_or_exit()
    address = own_address(settings, port)
    if address.told is not None:
        typer.echo(address.told, err=True)
    if address.base_url is None:
        return settings
    os.environ["BASE_URL"] = address.base_url
    return settings_or_exit()


async def _show_way_in(settings: Settings) -> None:
    """At the first start on this machine, print a link that signs the operator in to the dashboard."""
    if settings.oidc_issuer is not None or not settings.on_loopback:
        return
    async with open_stores(settings) as stores:
        links = sign_in_links_of(settings, stores.control)
        link = None if links is None else await links.mint_first()
    if link is not None:
        typer.echo(f"dashboard (works once, within 15 minutes): {link}", err=True)


def _exit_cleanly(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _uses_sqlite(settings: Settings) -> bool:
    urls = (settings.database_url, settings.effective_event_log_url)
    return any(StoreUrl.parse(url).backend == "sqlite" for url in urls)


def _run_many(config: uvicorn.Config, ready: str) -> None:
    """Run several server processes over one socket; the line is printed when the first of them answers."""
    bound = config.bind_socket()
    threading.Thread(target=_announce_when_healthy, args=(config, ready), daemon=True).start()
    Multiprocess(config, sockets=[bound]).run()


def _announce_when_healthy(config: uvicorn.Config, ready: str) -> None:
    host = "127.0.0.1" if config.host in {"0.0.0.0", "::"} else config.host  # noqa: S104 - compared, not bound
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://{host}:{config.port}/healthz", timeout=1):
                typer.echo(ready)
                return
        except OSError:
            time.sleep(0.1)


class _AnnouncingServer(uvicorn.Server):
    """Prints one line when it listens."""

    def __init__(self, config: uvicorn.Config, ready: str) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            typer.echo(self._ready)
