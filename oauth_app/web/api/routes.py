"""The routes of the API: every operation behind its token, its rate limit and its refusals."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from importlib.metadata import version

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from enable_with_segment.db.event_log.records import EventLogUnavailable
from enable_with_segment.oauth_app.web.api.description import describe
from enable_with_segment.oauth_app.web.api.operations import OPERATIONS, Operation
from enable_with_segment.oauth_app.web.api.problem import ApiProblem
from enable_with_segment.oauth_app.web.api.requests import caller_of
from enable_with_segment.oauth_app.web.rate_limits import Purpose
from enable_with_segment.oauth_app.web.services import Services, services_of

logger = logging.getLogger(__name__)


def routes() -> list[Route]:
    """Every operation, and the description of them all."""
    return [
        Route("/api/openapi.json", description, methods=["GET"]),
        *(Route(found.route_path, _endpoint(found), methods=[found.method]) for found in OPERATIONS),
    ]


async def description(request: Request) -> Response:
    """The OpenAPI description; it holds no secret and needs no token."""
    base_url = services_of(request).settings.base_url
    return JSONResponse(describe(base_url=base_url, version=version("enable-with-segment")))


def _endpoint(operation: Operation) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        services = services_of(request)
        try:
            _check_rate(services, request)
            caller = await caller_of(services, request, operation.scope)
            return await operation.handle(services, caller, request)
        except ApiProblem as problem:
            return problem.response()
        except (SQLAlchemyError, EventLogUnavailable, OSError) as error:
            logger.warning("the API answers 503: a store is away (%s)", type(error).__name__)
            away = ApiProblem(503, "store_away", "A store does not answer. Try again.", headers={"Retry-After": "10"})
            return away.response()

    return endpoint


def _check_rate(services: Services, request: Request) -> None:
    wait = services.rate_limits.wait_seconds(Purpose.API, request)
    if wait is not None:
        headers = {"Retry-After": str(wait)}
        raise ApiProblem(429, "too_many_requests", f"Too many requests. Wait {wait} s.", headers=headers)
