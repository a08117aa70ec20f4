"""The web application: routes, the webhook mounted beside them, and what runs while it is up."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp

from oauth_app.routes import install, operations, status
from oauth_app.services import Services

logger = logging.getLogger(__name__)

Lifespan = Callable[[], AbstractAsyncContextManager[None]]


def create_application(services: Services, *, webhook: ASGIApp, lifespan: Lifespan) -> Starlette:
    """Put the application together.

    There is no middleware: each one would cost every delivery time, and the webhook needs none. What the pages need
    (their headers) is set where they are made.

    Args:
        webhook: the plain ASGI callable behind ``/subscriptions``.
        lifespan: a context that is entered at start and left at the end.
    """

    @asynccontextmanager
    async def run(_application: Starlette) -> AsyncIterator[None]:
        async with lifespan():
            yield

    application = Starlette(
        routes=[
            Mount("/subscriptions", app=webhook),
            *install.routes(),
            *status.routes(),
            *operations.routes(),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _bug},
        lifespan=run,
    )
    application.state.services = services
    return application


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette calls it for nothing else
    return PlainTextResponse(f"{error.detail}\n", status_code=error.status_code, headers=error.headers)


async def _bug(request: Request, _error: Exception) -> Response:
    """Answer a bug of ours without a detail; the log line has the same incident id and the traceback."""
    incident = secrets.token_hex(4)
    logger.error("unexpected error on %s %s (incident %s)", request.method, request.scope["path"], incident)
    return JSONResponse({"message": f"Something went wrong on our side (incident {incident})."}, status_code=500)
