"""The sandbox's own JSON interface under `/_sandbox/`: look inside, script faults, move the clock, act."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from segment_sandbox.application import CONTROL_PREFIX
from segment_sandbox.clock import timestamp
from segment_sandbox.faults import InvalidFault, parse_rule
from segment_sandbox.jsontext import InvalidJson, parse_object
from segment_sandbox.switches import PROFILES, UnknownSwitch

if TYPE_CHECKING:
    from segment_sandbox.sandbox import Sandbox

Answer = dict[str, object]


class ControlError(Exception):
    """A control request that cannot be carried out; the message says why."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


class Control:
    """Handlers for `/_sandbox/`."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def routes(self) -> list[Route]:
        return [
            _route("GET", "requests", self.requests),
            _route("DELETE", "requests", self.clear_requests),
            _route("GET", "faults", self.faults),
            _route("POST", "faults", self.add_fault),
            _route("DELETE", "faults", self.clear_faults),
            _route("GET", "switches", self.switches),
            _route("POST", "switches", self.set_switches),
            _route("POST", "profile", self.set_profile),
            _route("GET", "clock", self.clock),
            _route("POST", "clock", self.move_clock),
            _route("POST", "uninstall", self.uninstall),
            _route("POST", "expire-tokens", self.expire_tokens),
            _route("POST", "reset", self.reset),
        ]

    async def requests(self, request: Request) -> Answer:
        """Every request on Segment's routes, oldest first; `?path=` and `?method=` select."""
        path, method = request.query_params.get("path"), request.query_params.get("method")
        found = [
            record.as_dict()
            for record in self._sandbox.state.transcript.requests
            if (path is None or record.path == path) and (method is None or record.method == method)
        ]
        return {"profile": self._sandbox.state.profile, "count": len(found), "requests": found}

    async def clear_requests(self, _: Request) -> Answer:
        self._sandbox.state.transcript.clear()
        return {}

    async def faults(self, _: Request) -> Answer:
        return {"faults": [rule.as_dict() for rule in self._sandbox.state.faults.rules]}

    async def add_fault(self, request: Request) -> Answer:
        """`{"route": "POST /v1beta/.*", "times": 2, "fault": {"status": 503, "body": "..."}}`"""
        try:
            return self._sandbox.state.faults.add(*parse_rule(await _body(request))).as_dict()
        except InvalidFault as error:
            raise ControlError(str(error)) from error

    async def clear_faults(self, _: Request) -> Answer:
        self._sandbox.state.faults.clear()
        return {}

    async def switches(self, _: Request) -> Answer:
        state = self._sandbox.state
        return {"profile": state.profile, "profiles": list(PROFILES), "switches": state.switches.as_dict()}

    async def set_switches(self, request: Request) -> Answer:
        """`{"install_exists": "page", ...}`"""
        try:
            self._sandbox.state.set_switches(await _body(request))
        except UnknownSwitch as error:
            raise ControlError(str(error)) from error
        return await self.switches(request)

    async def set_profile(self, request: Request) -> Answer:
        """`{"profile": "hostile"}`"""
        try:
            self._sandbox.state.set_profile(str((await _body(request)).get("profile")))
        except UnknownSwitch as error:
            raise ControlError(str(error)) from error
        return await self.switches(request)

    async def clock(self, _: Request) -> Answer:
        clock = self._sandbox.state.clock
        return {"now": timestamp(clock.now()), "time_scale": clock.scale}

    async def move_clock(self, request: Request) -> Answer:
        """`{"advance_seconds": 3600}` jumps ahead; `{"time_scale": 60}` changes the speed."""
        body, clock = await _body(request), self._sandbox.state.clock
        advance, scale = body.get("advance_seconds", 0), body.get("time_scale", clock.scale)
        clock.set_scale(_not_negative(scale, "time_scale"))
        clock.advance(_not_negative(advance, "advance_seconds"))
        return await self.clock(request)

    async def uninstall(self, request: Request) -> Answer:
        """`{"install_name": "installs/9077"}`: its tokens die, and nobody is told."""
        name = str((await _body(request)).get("install_name"))
        if not self._sandbox.state.world.uninstall(name):
            raise ControlError(f"There is no install {name!r}.", 404)
        return {}

    async def expire_tokens(self, _: Request) -> Answer:
        """Make every install token as old as if its hour were over."""
        state, count = self._sandbox.state, 0
        for token in state.world.tokens.values():
            if token.install is not None and token.expires_at is not None:
                token.expires_at = min(token.expires_at, state.now() - timedelta(seconds=1))
                count += 1
        return {"expired": count}

    async def reset(self, _: Request) -> Answer:
        self._sandbox.reset()
        return {}


def _route(method: str, name: str, handler: Callable[[Request], Awaitable[Answer]]) -> Route:
    async def endpoint(request: Request) -> Response:
        try:
            return JSONResponse(await handler(request))
        except ControlError as error:
            return JSONResponse({"error": str(error)}, error.status)

    return Route(f"{CONTROL_PREFIX}/{name}", endpoint, methods=[method], name=f"{method} {name}")


async def _body(request: Request) -> dict[str, object]:
    try:
        return parse_object(await request.body() or b"{}")
    except InvalidJson as error:
        raise ControlError(str(error)) from error


def _not_negative(value: object, name: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < float("inf"):
        raise ControlError(f"{name} is a number of at least 0.")
    return float(value)
