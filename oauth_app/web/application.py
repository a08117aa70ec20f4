"""The web application: routes, the webhook mounted beside them, and what runs while it is up."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionLeft
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from enable_with_segment.components.partner_call import PartnerFunctionFailed
from enable_with_segment.db.identifiers import incident_id
from enable_with_segment.oauth_app.flow.failures import FailureReason
from enable_with_segment.oauth_app.observability.metrics import CountedResponses
from enable_with_segment.oauth_app.runtime.settings import Settings, load_settings
from enable_with_segment.oauth_app.runtime.wiring import Role, RunningService, run_service
from enable_with_segment.oauth_app.web.api import routes as api
from enable_with_segment.oauth_app.web.api.problem import ApiProblem, problem_of_status
from enable_with_segment.oauth_app.web.dashboard import routes as dashboard
from enable_with_segment.oauth_app.web.routes import install, operations, status
from enable_with_segment.oauth_app.web.routes import metrics as metrics_routes
from enable_with_segment.oauth_app.web.services import services_of
from enable_with_segment.subscriptions.receiving.fast_path import FastPath
from enable_with_segment.subscriptions.receiving.load_shedding import LoadShedding

logger = logging.getLogger(__name__)

_DELIVERIES = "/subscriptions/"
_AWAY = (OperationalError, InterfaceError, NoConnectionLeft, OSError)
"""What a control store that does not answer raises, through SQLAlchemy or past it."""

Lifespan: TypeAlias = Callable[[], AbstractAsyncContextManager[RunningService]]


def create_application(settings: Settings | None = None, role: Role = "all") -> Starlette:
    """Return the service as an ASGI application; everything is opened when it starts and closed when it stops.

    Args:
        settings: read from the environment when left out.
        role: ``all``; ``web`` without background work; ``worker`` with nothing but background work and health.
    """
    chosen = settings or load_settings()
    return assemble(lambda: run_service(chosen, role), role)


def assemble(lifespan: Lifespan, role: Role = "all") -> Starlette:
    """Put routes over whatever a lifespan brings up.

    The only middleware counts answers and lets deliveries pass: each layer would cost every delivery time, and the
    webhook needs none. What the pages need (their headers) is set where they are made.
    """

    @asynccontextmanager
    async def run(application: _Application) -> AsyncIterator[None]:
        async with lifespan() as service:
            application.state.services = service.services
            if role != "worker":
                application.webhook = service.webhook
                application.load_shedding = service.load_shedding
                application.fast_path = service.fast_path
            yield
            application.webhook = application.load_shedding = application.fast_path = None

    routes: list[BaseRoute] = [*operations.routes(), *metrics_routes.routes()]
    if role != "worker":
        routes = [
            Mount("/subscriptions", app=_webhook),
            *install.routes(),
            *status.routes(),
            *api.routes(),
            *dashboard.routes(),
            *routes,
        ]
    application = _Application(
        routes=routes,
        middleware=[Middleware(CountedResponses)],
        exception_handlers={
            HTTPException: _http_error,
            **dict.fromkeys(_AWAY, _store_away),
            PartnerFunctionFailed: _partner_function_failed,
            Exception: _bug,
        },
        lifespan=run,
    )
    # Starlette would answer a slash too many with a 307 to whatever host the request names (OA-11, OA-16).
    application.router.redirect_slashes = False
    return application


class _Application(Starlette):
    """Starlette, with a short cut for deliveries: they are most of the traffic, and their way is always the same."""

    webhook: ASGIApp | None = None
    """Where deliveries go; there is none in a worker."""
    load_shedding: LoadShedding | None = None
    fast_path: FastPath | None = None
    """What our server (``subscriptions/receiving/server/protocol.py``) asks before it makes a request of a delivery."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        webhook = self.webhook
        if webhook is None or scope["type"] != "http" or not scope["path"].startswith(_DELIVERIES):
            await super().__call__(scope, receive, send)
            return
        scope["root_path"] = scope.get("root_path", "") + _DELIVERIES[:-1]
        await webhook(scope, receive, send)


async def _webhook(scope: Scope, receive: Receive, send: Send) -> None:
    await scope["app"].webhook(scope, receive, send)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette calls it for nothing else
    if request.scope["path"].startswith("/api/"):
        return problem_of_status(error.status_code, error.headers).response()
    if error.status_code == 404 and _wants_page(request):
        return services_of(request).pages.failure(FailureReason.PAGE_UNKNOWN)
    return PlainTextResponse(f"{error.detail}\n", status_code=error.status_code, headers=error.headers)


async def _store_away(request: Request, error: Exception) -> Response:
    """Answer while the control store is away: it may be back in a moment, so nothing final is said."""
    incident = incident_id()
    logger.error(
        "a store is away (%s) on %s %r (incident %s)",
        type(error).__name__,
        request.method,
        _place(request),
        incident,
    )
    if _wants_page(request):
        response: Response = services_of(request).pages.failure(FailureReason.STORE_AWAY, incident=incident)
    else:
        response = JSONResponse({"message": f"Not possible right now (incident {incident})."}, status_code=503)
    response.headers["Retry-After"] = "10"
    return response


async def _partner_function_failed(request: Request, error: Exception) -> Response:
    """Answer while a function of the partner's fails: nothing was changed, and it may work again in a moment."""
    incident = incident_id()
    logger.error(
        "%s, on %s %r (incident %s)", error, request.method, _place(request), incident, exc_info=error.__cause__
    )
    if request.scope["path"].startswith("/api/"):
        message = f"A function of yours failed (incident {incident}); the service's log names it."
        response: Response = ApiProblem(503, "function_failed", message).response()
    elif _wants_page(request):
        response = services_of(request).pages.failure(FailureReason.FUNCTION_FAILED, incident=incident)
    else:
        response = JSONResponse({"message": f"Not possible right now (incident {incident})."}, status_code=503)
    response.headers["Retry-After"] = "10"
    return response


async def _bug(request: Request, _error: Exception) -> Response:
    """Answer a bug of ours without a detail; the log line has the same incident id, and the traceback follows it."""
    incident = incident_id()
    logger.error("unexpected error on %s %r (incident %s)", request.method, _place(request), incident)
    if _wants_page(request):
        return services_of(request).pages.failure(FailureReason.OUR_FAULT, incident=incident)
    return JSONResponse({"message": f"Something went wrong on our side (incident {incident})."}, status_code=500)


def _place(request: Request) -> str:
    """Name the path for a log, without what fills its places: the name of a connect link is what opens it."""
    path: str = request.scope["path"]
    names = {str(value): f"{{{name}}}" for name, value in request.path_params.items()}
    return "/".join(names.get(part, part) for part in path.split("/"))


def _wants_page(request: Request) -> bool:
    """Tell whether a person looks at the answer: a browser names HTML when it opens an address or sends a form."""
    return "text/html" in request.headers.get("accept", "")
