"""The knobs under `/_sandbox/`: the transcript, faults, switches, the clock, starting again."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.routing import Route

from enable_with_segment.segment_sandbox.clock import timestamp
from enable_with_segment.segment_sandbox.control.http import Answer, ControlError, body_of, not_negative, route
from enable_with_segment.segment_sandbox.delivery.deliveries import Deliveries
from enable_with_segment.segment_sandbox.faults import InvalidFault, parse_rule
from enable_with_segment.segment_sandbox.state import State
from enable_with_segment.segment_sandbox.switches import PROFILES, UnknownSwitch


class Control:
    """Handlers that change how the sandbox behaves."""

    def __init__(self, state: State, deliveries: Deliveries, restart: Callable[[], None]) -> None:
        self._state = state
        self._deliveries = deliveries
        self._restart = restart

    def routes(self) -> list[Route]:
        return [
            route("GET", "requests", self.requests),
            route("DELETE", "requests", self.clear_requests),
            route("GET", "faults", self.faults),
            route("POST", "faults", self.add_fault),
            route("DELETE", "faults", self.clear_faults),
            route("GET", "switches", self.switches),
            route("POST", "switches", self.set_switches),
            route("POST", "profile", self.set_profile),
            route("GET", "clock", self.clock),
            route("POST", "clock", self.move_clock),
            route("POST", "reset", self.reset),
        ]

    async def requests(self, request: Request) -> Answer:
        """Every request on Segment's routes, oldest first; `?path=` and `?method=` select."""
        path, method = request.query_params.get("path"), request.query_params.get("method")
        found = [
            record.as_dict()
            for record in self._state.transcript.requests
            if (path is None or record.path == path) and (method is None or record.method == method)
        ]
        return {"profile": self._state.profile, "count": len(found), "requests": found}

    async def clear_requests(self, _: Request) -> Answer:
        self._state.transcript.clear()
        return {}

    async def faults(self, _: Request) -> Answer:
        return {"faults": [rule.as_dict() for rule in self._state.faults.rules]}

    async def add_fault(self, request: Request) -> Answer:
        """`{"route": "POST /v1beta/.*", "times": 2, "fault": {"status": 503, "body": "..."}}`"""
        try:
            return self._state.faults.add(*parse_rule(await body_of(request))).as_dict()
        except InvalidFault as error:
            raise ControlError(str(error)) from error

    async def clear_faults(self, _: Request) -> Answer:
        self._state.faults.clear()
        return {}

    async def switches(self, _: Request) -> Answer:
        state = self._state
        return {"profile": state.profile, "profiles": list(PROFILES), "switches": state.switches.as_dict()}

    async def set_switches(self, request: Request) -> Answer:
        """`{"install_exists": "page", ...}`"""
        try:
            self._state.set_switches(await body_of(request))
        except UnknownSwitch as error:
            raise ControlError(str(error)) from error
        return await self.switches(request)

    async def set_profile(self, request: Request) -> Answer:
        """`{"profile": "hostile"}`"""
        try:
            self._state.set_profile(str((await body_of(request)).get("profile")))
        except UnknownSwitch as error:
            raise ControlError(str(error)) from error
        return await self.switches(request)

    async def clock(self, _: Request) -> Answer:
        clock = self._state.clock
        return {"now": timestamp(clock.now()), "time_scale": clock.scale}

    async def move_clock(self, request: Request) -> Answer:
        """`{"advance_seconds": 3600}` jumps ahead; `{"time_scale": 60}` changes the speed."""
        body, clock = await body_of(request), self._state.clock
        advance, scale = body.get("advance_seconds", 0), body.get("time_scale", clock.scale)
        clock.set_scale(not_negative(scale, "time_scale"))
        clock.advance(not_negative(advance, "advance_seconds"))
        self._deliveries.wake()
        return await self.clock(request)

    async def reset(self, _: Request) -> Answer:
        self._restart()
        return {}
