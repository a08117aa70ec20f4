"""Answers to requests that fail: a page for people, JSON for programs, an incident id in both and in the log."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionLeft
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from enable_with_segment.components.partner_call import PartnerFunctionFailed
from enable_with_segment.db.identifiers import incident_id
from enable_with_segment.oauth_app.flow.failures import FailureReason
from enable_with_segment.oauth_app.web.api.problem import ApiProblem, problem_of_status
from enable_with_segment.oauth_app.web.paths import path_below_mount
from enable_with_segment.oauth_app.web.services import services_of

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Request, Exception], Awaitable[Response]]

_STORE_AWAY = (OperationalError, InterfaceError, NoConnectionLeft, OSError)
"""What a control store that does not answer raises, through SQLAlchemy or past it."""


def handlers() -> dict[type[Exception], Handler]:
    """Return the handler of each kind of failure, as Starlette takes them."""
    return {
        HTTPException: _http_error,
        **dict.fromkeys(_STORE_AWAY, _store_away),
        PartnerFunctionFailed: _partner_function_failed,
        Exception: _bug,
    }


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette calls it for nothing else
    if _is_api(request):
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
    if _is_api(request):
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


def _is_api(request: Request) -> bool:
    return path_below_mount(request.scope).startswith("/api/")


def _place(request: Request) -> str:
    """Name the path for a log, without what fills its places: the name of a connect link is what opens it."""
    path: str = request.scope["path"]
    names = {str(value): f"{{{name}}}" for name, value in request.path_params.items()}
    return "/".join(names.get(part, part) for part in path.split("/"))


def _wants_page(request: Request) -> bool:
    """Return True if a person reads the answer: a browser names HTML when it opens an address or sends a form."""
    return "text/html" in request.headers.get("accept", "")
