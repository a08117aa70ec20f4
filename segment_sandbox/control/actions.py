"""Making things happen under `/_sandbox/`: uninstall, expiry, deletions, replays, test events."""

from __future__ import annotations

from datetime import timedelta

from starlette.requests import Request
from starlette.routing import Route

from enable_with_segment.segment_sandbox.control.http import Answer, ControlError, body_of, route, text
from enable_with_segment.segment_sandbox.delivery.courier import Courier
from enable_with_segment.segment_sandbox.delivery.deliveries import Deliveries
from enable_with_segment.segment_sandbox.delivery.erasure import Erasure
from enable_with_segment.segment_sandbox.delivery.suite import exchange_as_json, run_suite
from enable_with_segment.segment_sandbox.jsontext import encode
from enable_with_segment.segment_sandbox.state import State
from enable_with_segment.segment_sandbox.tracking.events import parse_time
from enable_with_segment.segment_sandbox.tracking.ingestion import Ingestion
from enable_with_segment.segment_sandbox.world import Destination


class ControlActions:
    """Handlers that do what a customer, or Segment's staff, would do by hand."""

    def __init__(
        self, state: State, deliveries: Deliveries, courier: Courier, ingestion: Ingestion, erasure: Erasure
    ) -> None:
        self._state = state
        self._deliveries = deliveries
        self._courier = courier
        self._ingestion = ingestion
        self._erasure = erasure

    def routes(self) -> list[Route]:
        return [
            route("POST", "uninstall", self.uninstall),
            route("POST", "expire-tokens", self.expire_tokens),
            route("POST", "delete", self.delete),
            route("GET", "regulations", self.regulations),
            route("POST", "replay", self.replay),
            route("POST", "test-suite", self.test_suite),
            route("POST", "test-event", self.test_event),
        ]

    async def uninstall(self, request: Request) -> Answer:
        """`{"install_name": "installs/9077"}`: its tokens die, and nobody is told."""
        name = text(await body_of(request), "install_name")
        if not self._state.world.uninstall(name):
            raise ControlError(f"There is no install {name!r}.", 404)
        return {"uninstalled": name}

    async def expire_tokens(self, _: Request) -> Answer:
        """Make every install token as old as if its hour were over."""
        state, count = self._state, 0
        for token in state.world.tokens.values():
            if token.install is not None and token.expires_at is not None:
                token.expires_at = min(token.expires_at, state.now() - timedelta(seconds=1))
                count += 1
        return {"expired": count}

    async def delete(self, request: Request) -> Answer:
        """`{"workspace", "user_id", "suppress"?: true}`: a delete message to every connected destination."""
        body = await body_of(request)
        workspace, user_id = text(body, "workspace"), text(body, "user_id")
        if workspace not in self._state.world.workspaces:
            raise ControlError(f"There is no workspace {workspace!r}.", 404)
        kind = body.get("suppress") is True
        regulation = self._erasure.order(workspace, user_id, "SUPPRESS_WITH_DELETE" if kind else "DELETE_ONLY")
        return regulation.as_dict()

    async def regulations(self, _: Request) -> Answer:
        return {"regulations": [r.as_dict() for r in self._erasure.regulations.values()]}

    async def replay(self, request: Request) -> Answer:
        """Send archived events again: `{"destination_name", "since"?, "until"?, "type"?, "event"?, "limit"?}`."""
        body = await body_of(request)
        destination = self._destination(body)
        since, until = parse_time(body.get("since")), parse_time(body.get("until"))
        limit = body.get("limit", len(self._ingestion.archive))
        chosen = [
            archived.event
            for archived in self._ingestion.archive
            if archived.source == destination.source
            and (since is None or archived.received_at >= since)
            and (until is None or archived.received_at <= until)
            and body.get("type") in (None, archived.event.get("type"))
            and body.get("event") in (None, archived.event.get("event"))
        ]
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
            raise ControlError("limit is not a whole number of at least 0.")
        sent = [self._deliveries.replay(destination, event) for event in chosen[:limit]]
        queued = sum(delivery is not None for delivery in sent)
        return {"replayed": queued, "filtered": len(sent) - queued}

    async def test_suite(self, request: Request) -> Answer:
        """`{"destination_name", "api_key"?}`: the eight events, with the destination's key or a typed-in one."""
        body = await body_of(request)
        destination = self._destination(body)
        api_key = text(body, "api_key") if "api_key" in body else None
        return await run_suite(self._courier, destination, api_key)

    async def test_event(self, request: Request) -> Answer:
        """`{"destination_name", "event"?: {...}}`: sent at once, past filters, without retries."""
        body, state = await body_of(request), self._state
        destination = self._destination(body)
        event = body.get("event") or {
            "type": "track",
            "event": "Test Event Name",
            "userId": f"test-user-{state.identifiers.alphanumeric(6)}",
            "messageId": f"test-message-{state.identifiers.alphanumeric(6)}",
            "projectId": state.world.sources[destination.source].project_id,
            "timestamp": state.now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "email": "test@example.org",
            "properties": {"property1": 1, "property2": "test", "property3": True},
        }
        if not isinstance(event, dict):
            raise ControlError("event is not an object.")
        return exchange_as_json(await self._courier.exchange(destination, encode(event)))

    def _destination(self, body: dict[str, object]) -> Destination:
        name = text(body, "destination_name")
        destination = self._state.world.destinations.get(name)
        if destination is None:
            raise ControlError(f"There is no destination {name!r}.", 404)
        return destination
