"""Segment's ingestion API (contract 8.2): it says 200 to almost everything, and drops what it cannot use."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from enable_with_segment.segment_sandbox.clock import timestamp
from enable_with_segment.segment_sandbox.delivery.deliveries import Deliveries
from enable_with_segment.segment_sandbox.jsontext import InvalidJson, parse_object
from enable_with_segment.segment_sandbox.oauth import credentials
from enable_with_segment.segment_sandbox.state import State
from enable_with_segment.segment_sandbox.tracking.events import (
    LARGEST_EVENT,
    Arrival,
    DroppedEvent,
    Event,
    check,
    complete,
)
from enable_with_segment.segment_sandbox.world import Source

LARGEST_BATCH = 500 * 1024
MOST_ITEMS = 2500
SERVER_ROUTES = frozenset({"identify", "track", "page", "screen", "group", "alias", "batch", "import"})
CLIENT_ROUTES: Mapping[str, str] = {
    "i": "identify",
    "t": "track",
    "p": "page",
    "s": "screen",
    "g": "group",
    "a": "alias",
    "b": "batch",
}
_CORS = {"Access-Control-Allow-Origin": "*"}
_PREFLIGHT = {
    **_CORS,
    "Access-Control-Allow-Headers": "authorization, content-encoding, content-type",
    "Access-Control-Allow-Methods": "GET, POST, PUT, OPTIONS",
    "Access-Control-Max-Age": "604800",
}


class MalformedGzip(ValueError):
    """The body says that it is gzip and is not, or it is longer unpacked than a batch may be."""


@dataclass(frozen=True, slots=True)
class IngestedEvent:
    """One accepted event in the archive, with the source it came through."""

    source: str
    received_at: datetime
    event: Event


@dataclass(frozen=True, slots=True)
class IngestionDrop:
    """One event, or one request, that was answered with 200 and dropped."""

    time: str
    code: str
    source: str | None
    message_id: str | None
    type: str | None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class Ingestion:
    """Handlers for api.segment.io, the archive of accepted events, and the log of dropped ones."""

    def __init__(self, state: State, deliveries: Deliveries) -> None:
        self._state = state
        self._deliveries = deliveries
        self.reset()

    def reset(self) -> None:
        """Forget every event."""
        self.archive: deque[IngestedEvent] = deque(maxlen=self._state.config.max_records)
        self.drops: deque[IngestionDrop] = deque(maxlen=self._state.config.max_records)
        self.accepted = 0
        self.dropped = 0
        self._seen: dict[tuple[str, str], datetime] = {}

    def routes(self) -> list[Route]:
        methods = ["POST", "PUT", "OPTIONS"]
        return [
            Route("/v1/{kind:path}", self.handle, methods=methods),
            Route("/V1/{kind:path}", self.handle, methods=methods),
            Route("/internal/health", self.health, methods=["GET"]),
        ]

    async def health(self, _: Request) -> Response:
        return Response()

    async def handle(self, request: Request) -> Response:
        """Take one event or a batch of them."""
        kind = request.path_params["kind"].strip("/").lower()
        client = kind in CLIENT_ROUTES
        kind = CLIENT_ROUTES.get(kind, kind)
        if kind not in SERVER_ROUTES:
            return PlainTextResponse("Not Found\n", 404, _CORS)
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=_PREFLIGHT)
        if self._state.switches.ingestion_overloaded:
            headers = {**_CORS, "Retry-After": "1", "X-RateLimit-Reset": "1"}
            return JSONResponse({"success": False, "message": "Too Many Requests"}, 429, headers)
        try:
            body = unpack(await request.body(), request.headers.get("content-encoding", ""))
            self._take(request, kind, body, client=client)
        except MalformedGzip:
            return JSONResponse({"success": False, "message": "Malformed gzip content"}, 400, _CORS)
        except InvalidJson:
            if not client:
                return PlainTextResponse("Bad Request\n", 400, _CORS)
        return JSONResponse({"success": True}, headers=_CORS)

    def _take(self, request: Request, kind: str, body: bytes, *, client: bool) -> None:
        batch = kind in {"batch", "import"}
        if len(body) > (LARGEST_BATCH if batch else LARGEST_EVENT):
            raise InvalidJson("body is too large")
        envelope = parse_object(body)
        source = self._source(request.headers.get("authorization"), envelope)
        if source is None:
            self._drop("unknown_source", None, {})
            return
        channel, client_ip = "client" if client else "server", request.client.host if request.client else ""
        if not batch:
            self._take_event(source, {**envelope, "type": kind}, {}, channel, client_ip)
            return
        items = envelope.get("batch")
        if not isinstance(items, list) or not items:
            self._drop("empty_batch", source, {})
        elif len(items) > MOST_ITEMS:
            self._drop("bad_request", source, {})
        else:
            for item in items:
                self._take_event(source, item, envelope, channel, client_ip)

    def _take_event(
        self, source: Source, item: object, envelope: Mapping[str, object], channel: str, client_ip: str
    ) -> None:
        state = self._state
        event = item if isinstance(item, dict) else {}
        try:
            check(event)
        except DroppedEvent as error:
            self._drop(error.code, source, event)
            return
        arrival = Arrival(
            received_at=state.now(),
            project_id=source.project_id,
            message_id=f"api-{state.identifiers.uuid()}",
            channel=channel,
            client_ip=client_ip,
        )
        completed = complete(event, envelope, arrival)
        if completed.get("userId") in state.world.workspaces[source.workspace].suppressed_user_ids:
            self._drop("suppressed", source, {**completed, "userId": None})
        elif self._is_duplicate(source, str(completed["messageId"]), arrival.received_at):
            self._drop("duplicate", source, completed)
        else:
            self.accepted += 1
            self.archive.append(IngestedEvent(source.name, arrival.received_at, completed))
            self._deliveries.fan_out(source, completed)

    def _is_duplicate(self, source: Source, message_id: str, now: datetime) -> bool:
        switches = self._state.switches
        oldest = now - timedelta(hours=switches.ingestion_dedupe_hours)
        while self._seen and (first := next(iter(self._seen.items())))[1] <= oldest:
            del self._seen[first[0]]
        key = (source.name if switches.ingestion_dedupe == "per_source" else "", message_id)
        if key in self._seen:
            return True
        self._seen[key] = now
        return False

    def _source(self, authorization: str | None, envelope: Mapping[str, object]) -> Source | None:
        pair = credentials.basic_pair(authorization)
        write_key = pair[0] if pair and pair[0] else envelope.get("writeKey")
        return self._state.world.source_by_write_key(write_key) if isinstance(write_key, str) else None

    def _drop(self, code: str, source: Source | None, event: Mapping[str, object]) -> None:
        message_id, kind = event.get("messageId"), event.get("type")
        self.dropped += 1
        self.drops.append(
            IngestionDrop(
                time=timestamp(self._state.now()),
                code=code,
                source=source.name if source else None,
                message_id=message_id if isinstance(message_id, str) else None,
                type=kind if isinstance(kind, str) else None,
            )
        )


def unpack(body: bytes, encoding: str) -> bytes:
    """The body without its gzip encoding, read no further than the size of a batch. Raises `MalformedGzip`."""
    if encoding.strip().lower() != "gzip":
        return body
    decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        unpacked = decoder.decompress(body, LARGEST_BATCH + 1)
    except zlib.error as error:
        raise MalformedGzip from error
    if not decoder.eof and len(unpacked) <= LARGEST_BATCH:
        raise MalformedGzip
    return unpacked
