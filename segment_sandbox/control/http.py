"""What all control handlers share: reading a JSON body, and answering with JSON or with why not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from enable_with_segment.segment_sandbox.application import CONTROL_PREFIX
from enable_with_segment.segment_sandbox.jsontext import InvalidJson, parse_object
from enable_with_segment.segment_sandbox.responses import AnyJson

Answer = dict[str, object]


class ControlError(Exception):
    """A control request that cannot be carried out; the message says why."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


def route(method: str, name: str, handler: Callable[[Request], Awaitable[Answer]]) -> Route:
    """A control route: `METHOD /_sandbox/{name}`."""

    async def endpoint(request: Request) -> Response:
        try:
            return AnyJson(await handler(request))
        except ControlError as error:
            return AnyJson({"error": str(error)}, error.status)

    return Route(f"{CONTROL_PREFIX}/{name}", endpoint, methods=[method], name=f"{method} {name}")


async def body_of(request: Request) -> dict[str, object]:
    """The request's JSON object; an empty body is an empty one. Raises `ControlError`."""
    try:
        return parse_object(await request.body() or b"{}")
    except InvalidJson as error:
        raise ControlError(str(error)) from error


def not_negative(value: object, name: str) -> float:
    """The number that was given. Raises `ControlError`."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < float("inf"):
        raise ControlError(f"{name} is a number of at least 0.")
    return float(value)


def text(body: dict[str, object], name: str, default: str | None = None) -> str:
    """A string of the body. Raises `ControlError` when it is missing without a default, or no string."""
    value = body.get(name, default)
    if not isinstance(value, str) or (not value and default is None):
        raise ControlError(f"{name} is missing or not a string.")
    return value


def texts(body: dict[str, object], name: str) -> tuple[str, ...]:
    """An array of strings; absent means empty. Raises `ControlError`."""
    value = body.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ControlError(f"{name} is not an array of strings.")
    return tuple(value)
