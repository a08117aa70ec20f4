"""Reading a request of the API: its token, and a JSON body of a known shape."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from enable_with_segment.components.strict_json import JsonInvalid, parse
from enable_with_segment.oauth_app.operators.api_tokens import Caller, Scope
from enable_with_segment.oauth_app.web.api.problem import ApiProblem
from enable_with_segment.oauth_app.web.api.shapes import ACCOUNT_INVALID, Shape
from enable_with_segment.oauth_app.web.services import Services

S = TypeVar("S", bound=Shape)

LARGEST_BODY = 64 * 1024
BODY_SECONDS = 10.0
_MAX_DEPTH = 20
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="api"'}


async def caller_of(services: Services, request: Request, scope: Scope) -> Caller:
    """Recognise who calls, and check that the token may do this.

    Raises:
        ApiProblem: 401 without a usable token, 403 for one without the scope (RFC 6750 section 3.1).
    """
    given = request.headers.getlist("authorization")
    kind, _, token = (given[0] if len(given) == 1 else "").partition(" ")
    if kind.lower() != "bearer" or not token:
        raise ApiProblem(401, "token_missing", "Send an API token: Authorization: Bearer ewst_…", headers=_CHALLENGE)
    caller = await services.api_tokens.recognise(token.strip())
    if caller is None:
        challenge = {"WWW-Authenticate": 'Bearer realm="api", error="invalid_token"'}
        raise ApiProblem(401, "token_invalid", "The API token is unknown, revoked or expired.", headers=challenge)
    if scope not in caller.scopes:
        challenge = {"WWW-Authenticate": f'Bearer realm="api", error="insufficient_scope", scope="{scope}"'}
        raise ApiProblem(403, "scope_missing", f"The API token has no scope {scope}.", headers=challenge)
    return caller


async def bounded_body(request: Request, shape: type[S]) -> S:
    """Read a JSON body of at most 64 KiB, within ten seconds.

    Raises:
        ApiProblem: 408, 413, 415 or 400 with a sentence that names the fields.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiProblem(415, "not_json", "Send the body with Content-Type: application/json.")
    try:
        return shape.model_validate(parse(await _read(request), max_depth=_MAX_DEPTH))
    except JsonInvalid as problem:
        raise ApiProblem(400, "json_invalid", f"The body cannot be read: {problem}.") from None
    except ValidationError as problem:
        kinds = {error["type"] for error in problem.errors(include_input=False, include_url=False)}
        code = ACCOUNT_INVALID if kinds == {ACCOUNT_INVALID} else "body_invalid"
        raise ApiProblem(400, code, _sentence(problem)) from None


async def _read(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > LARGEST_BODY:
                    raise ApiProblem(413, "body_too_large", f"The body is larger than {LARGEST_BODY} bytes.")
    except TimeoutError:
        close = {"Connection": "close"}
        raise ApiProblem(408, "body_too_slow", "The body did not arrive in time.", headers=close) from None
    except ClientDisconnect:
        raise ApiProblem(400, "body_incomplete", "The body ended too early.") from None
    return bytes(body)


def _sentence(problem: ValidationError) -> str:
    """Say what is wrong with which field, without repeating what was sent."""
    told = []
    for error in problem.errors(include_input=False, include_url=False)[:5]:
        field = ".".join(str(part)[:50] for part in error["loc"]) or "body"
        told.append(f"{field}: {error['msg']}")
    return "; ".join(told) + "."
