"""The OpenAPI 3.1 description of the API, made from the table of operations and the shapes."""

from __future__ import annotations

import re
from typing import Any

from pydantic.json_schema import models_json_schema

from enable_with_segment.oauth_app.operators.api_tokens import Scope
from enable_with_segment.oauth_app.web.api.operations import OPERATIONS, Operation
from enable_with_segment.oauth_app.web.api.shapes import Problem, Shape

_REFERENCE = "#/components/schemas/{model}"
_ALWAYS = (401, 403, 429, 503)
_WORDS = {
    201: "Made.",
    204: "Done.",
    200: "Found.",
    400: "The request is not understood; the message names what is wrong.",
    401: "The API token is missing, unknown, revoked or expired.",
    403: "The API token has not the scope.",
    404: "There is no such thing.",
    409: "The service is not configured for this.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "Too many requests; Retry-After says when to come back.",
    503: "Stopped by the operator, or a store is away; try again later.",
}


def describe(*, base_url: str, version: str) -> dict[str, Any]:
    """Return the description of the API at an address."""
    shapes: set[type[Shape]] = {Problem}
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        shapes.update(shape for shape in (operation.body, operation.answer) if shape is not None)
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    ordered = sorted(shapes, key=lambda shape: shape.__name__)
    _, schemas = models_json_schema([(shape, "validation") for shape in ordered], ref_template=_REFERENCE)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Enable with Segment",
            "version": version,
            "description": "For your own backend: make connect links and API keys, and see installs and events.",
        },
        "servers": [{"url": base_url}],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"api_token": {"type": "http", "scheme": "bearer", "description": _scopes()}},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.handle.__name__,
        "summary": operation.summary,
        "description": f"Needs the scope `{operation.scope}`.",
        "security": [{"api_token": []}],
        "parameters": [
            *(_parameter(name, "path") for name in re.findall(r"\{(\w+)\}", operation.path)),
            *(_parameter(q.name, "query", q.description, q.kind) for q in operation.query),
        ],
        "responses": {
            str(operation.status): _answer(operation.status, operation.answer),
            **{str(status): _answer(status, Problem) for status in sorted({*operation.refusals, *_ALWAYS})},
        },
    }
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _content(operation.body)}
    return described


def _parameter(name: str, place: str, description: str | None = None, kind: str = "string") -> dict[str, Any]:
    described: dict[str, Any] = {"name": name, "in": place, "required": place == "path", "schema": {"type": kind}}
    return described if description is None else {**described, "description": description}


def _answer(status: int, shape: type[Shape] | None) -> dict[str, Any]:
    described: dict[str, Any] = {"description": _WORDS[status]}
    return described if shape is None else {**described, "content": _content(shape)}


def _content(shape: type[Shape]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(model=shape.__name__)}}}


def _scopes() -> str:
    return "A token of `enable-with-segment api-tokens create`. Scopes: " + ", ".join(f"`{s}`" for s in Scope) + "."
