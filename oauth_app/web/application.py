"""The service as an ASGI application: its routes, the webhook beside them, and what runs while it is up."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enable_with_segment.oauth_app.observability.metrics import Metrics
from enable_with_segment.oauth_app.runtime.settings import Settings, load_settings
from enable_with_segment.oauth_app.runtime.wiring import Role, RunningService, run_service
from enable_with_segment.oauth_app.web import errors
from enable_with_segment.oauth_app.web.api import routes as api
from enable_with_segment.oauth_app.web.dashboard import routes as dashboard
from enable_with_segment.oauth_app.web.paths import enter_base_path, path_below_mount
from enable_with_segment.oauth_app.web.routes import install, operations, status
from enable_with_segment.oauth_app.web.routes import metrics as metrics_routes
from enable_with_segment.subscriptions.receiving.fast_path import FastPath
from enable_with_segment.subscriptions.receiving.load_shedding import LoadShedding

logger = logging.getLogger(__name__)

_DELIVERIES = "/subscriptions/"
_NOT_RUNNING = (
    "The service was not started with the application that it is mounted in, so every request is answered 503. "
    "Pass its lifespan on: Starlette(lifespan=segment.lifespan, ...), or enter segment.lifespan(app) in yours."
)

Running: TypeAlias = Callable[[], AbstractAsyncContextManager[RunningService]]


def create_app(settings: Settings | None = None, role: Role = "all") -> ServiceApplication:
    """Return the service as an ASGI application, to be served by itself or mounted in another one.

    Starlette does not run the lifespan of an application that is mounted. So pass ours on to yours::

        segment = create_app()
        app = Starlette(routes=[Mount("/segment", app=segment)], lifespan=segment.lifespan)

    Args:
        settings: read from the environment when left out. ``BASE_URL`` is where browsers and Segment reach the
            service, with the path that it is mounted at.
        role: ``all``; ``web`` without background work; ``worker`` with nothing but background work and health.
    """
    chosen = settings or load_settings()
    return ServiceApplication(lambda: run_service(chosen, role), role)


class ServiceApplication(Starlette):
    """The service. ``lifespan`` runs it: stores, background work, and everything that the routes use.

    The only middleware counts answers and lets deliveries pass: each layer would cost every delivery time, and the
    webhook needs none. What the pages need (their headers) is set where they are made.

    Args:
        running: brings the service up; entered each time the lifespan begins.
    """

    webhook: ASGIApp | None = None
    """Where deliveries go; there is none in a worker."""
    load_shedding: LoadShedding | None = None
    fast_path: FastPath | None = None
    """What our server (``subscriptions/receiving/server/protocol.py``) asks before it makes a request of a delivery."""

    def __init__(self, running: Running, role: Role = "all") -> None:
        self._running = running
        self._role = role
        self._is_running = self._has_warned = self._has_compared = False
        self._base_path = ""
        super().__init__(
            routes=_routes(role),
            middleware=[Middleware(CountedResponses)],
            exception_handlers=errors.handlers(),
            lifespan=self.lifespan,
        )
        # Starlette would answer a slash too many with a 307 to whatever host the request names (OA-11, OA-16).
        self.router.redirect_slashes = False

    @asynccontextmanager
    async def lifespan(self, _host: object = None) -> AsyncIterator[None]:
        """Run the service while the block lasts: for the lifespan of an application that mounts it.

        Args:
            _host: the application, which Starlette and FastAPI hand to a lifespan; it is not used.
        """
        async with self._running() as service:
            self._begin(service)
            try:
                yield
            finally:
                self._is_running = False
                self.webhook = self.load_shedding = self.fast_path = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Deliveries are most of them, and go to the webhook past Starlette's routing."""
        if scope["type"] == "http":
            if self._base_path:
                enter_base_path(scope, self._base_path)
            root = scope.get("root_path") or ""
            if root and not self._has_compared:
                self._compare_mount(root)
            if self.webhook is not None and scope["path"].startswith(root + _DELIVERIES):
                scope["root_path"] = root + _DELIVERIES[:-1]
                await self.webhook(scope, receive, send)
                return
            if not self._is_running:
                await self._refuse(scope, receive, send)
                return
        await super().__call__(scope, receive, send)

    def _begin(self, service: RunningService) -> None:
        self.state.services = service.services
        self._base_path = service.services.settings.base_path
        if self._role != "worker":
            self.webhook = service.webhook
            self.load_shedding = service.load_shedding
            self.fast_path = service.fast_path
        self._is_running = True

    def _compare_mount(self, root: str) -> None:
        """Warn, once, if links would leave the mount. A proxy may still put them right."""
        self._has_compared = self._is_running
        if self._is_running and not self._base_path.endswith(root):
            base_url = self.state.services.settings.base_url
            logger.warning(
                "The service is mounted at %s, and BASE_URL is %s: its links and redirects lead to BASE_URL. "
                "Unless a proxy rewrites paths, set BASE_URL to the address that ends in %s.",
                root,
                base_url,
                root,
            )

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.error(_NOT_RUNNING)
        body = {"message": "The service is not running. Try again."}
        await JSONResponse(body, status_code=503, headers={"Retry-After": "10"})(scope, receive, send)


class CountedResponses:
    """Counts the answers of an application; deliveries are counted by the webhook, in more detail."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (path := path_below_mount(scope)).startswith(_DELIVERIES):
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                metrics: Metrics = scope["app"].state.services.metrics
                metrics.responded(path, message["status"])
            await send(message)

        await self._app(scope, receive, counted)


def _routes(role: Role) -> list[BaseRoute]:
    own: list[BaseRoute] = [*operations.routes(), *metrics_routes.routes()]
    if role == "worker":
        return own
    return [*install.routes(), *status.routes(), *api.routes(), *dashboard.routes(), *own]
