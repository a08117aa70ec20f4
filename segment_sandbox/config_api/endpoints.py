"""Segment's Config API `v1beta` (contract 3): one handler that routes by resource name and checks scopes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from enable_with_segment.segment_sandbox.config_api import admin_api
from enable_with_segment.segment_sandbox.config_api.catalog import (
    destination_entry,
    source_entries,
    source_json,
    workspace_json,
)
from enable_with_segment.segment_sandbox.config_api.destinations import apply_update, as_json, parse_fields, parse_mask
from enable_with_segment.segment_sandbox.config_api.errors import (
    ConfigApiError,
    already_exists,
    internal,
    invalid_argument,
    not_found,
    permission_denied,
    resource_exhausted,
    unauthenticated,
)
from enable_with_segment.segment_sandbox.jsontext import InvalidJson, parse_object
from enable_with_segment.segment_sandbox.oauth import credentials
from enable_with_segment.segment_sandbox.oauth.identity import Identity, TokenError
from enable_with_segment.segment_sandbox.responses import AnyJson
from enable_with_segment.segment_sandbox.state import State
from enable_with_segment.segment_sandbox.world import Destination, NameTaken, Source, Token

METHODS = ["GET", "POST", "PATCH", "PUT", "DELETE"]
DESTINATION_EXISTS = "destination already exists or other internal error"
UNROUTABLE = "upstream connect error or disconnect/reset before headers"
DEFAULT_PAGE_SIZE = 100
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the Config API. `route` is its method and the parts of its path."""

    request: Request
    body: bytes
    route: tuple[str, ...]

    @property
    def method(self) -> str:
        return self.route[0]

    def page(self, items: Sequence[Json], key: str) -> Json:
        """The part of a collection that `page_size` and `page_token` ask for (contract 3.8)."""
        query = self.request.query_params
        try:
            size, start = int(query.get("page_size", DEFAULT_PAGE_SIZE)), int(query.get("page_token") or 0)
        except ValueError as error:
            raise invalid_argument("page_size or page_token is malformed") from error
        if size < 1 or start < 0:
            raise invalid_argument("page_size or page_token is malformed")
        more = start + size < len(items)
        return {key: list(items[start : start + size]), "next_page_token": str(start + size) if more else ""}


class ConfigApi:
    """Handlers for platform.segmentapis.com."""

    def __init__(self, state: State, identity: Identity) -> None:
        self._state = state
        self._identity = identity
        self._recent: dict[str, deque[datetime]] = {}
        self._conflicts = 0

    def routes(self) -> list[Route]:
        return [
            Route("/v1beta", self.handle, methods=METHODS),
            Route("/v1beta/{path:path}", self.handle, methods=METHODS),
        ]

    def reset(self) -> None:
        """Forget how often each token called."""
        self._recent.clear()
        self._conflicts = 0

    async def handle(self, request: Request) -> Response:
        """Answer one call, with the resource or with an error in the form of contract 3.7."""
        path = tuple(part for part in request.path_params.get("path", "").split("/") if part)
        try:
            answer = self._answer(Call(request, await request.body(), (request.method, *path)))
        except ConfigApiError as error:
            return AnyJson(error.body, error.status)
        except TokenError as error:
            return AnyJson(error.body, error.status)
        if answer is None:
            if self._state.switches.bad_path == "503_text":
                return PlainTextResponse(UNROUTABLE, 503)
            return AnyJson(not_found("not found").body, 404)
        created = request.method == "POST" and self._state.switches.create_status == "201"
        return AnyJson(answer, 201 if created else 200)

    def _answer(self, call: Call) -> Json | None:
        """The JSON of the answer; None when no such path and method exist. Raises `ConfigApiError`."""
        authorization = call.request.headers.get("authorization")
        match call.route:
            case ("GET", "installs", number, "token"):
                return self._identity.refresh(f"installs/{number}", authorization)
            case ("POST", "access-tokens"):
                return admin_api.create_access_token(self._state, authorization, self._parsed(call))
            case ("POST", "apps"):
                return admin_api.create_app(self._state, self._token(call), self._parsed(call))
            case ("GET", "catalog", "destinations" | "sources" as kind, *names) if len(names) <= 1:
                return self._catalog(call, kind, names)
            case (_, "workspaces", slug, "sources", source, "destinations", *names):
                return self._destinations(call, f"workspaces/{slug}/sources/{source}", names)
            case (_, "workspaces", *names):
                return self._workspaces(call, names)
        return None

    def _token(self, call: Call) -> Token:
        """The caller's token, counted against its requests per minute."""
        state = self._state
        value = credentials.bearer_token(call.request.headers.get("authorization"))
        token = state.world.live_token(value, state.now()) if value else None
        if token is None:
            raise unauthenticated()
        recent = self._recent.setdefault(token.install or token.value, deque())
        while recent and recent[0] <= state.now() - timedelta(minutes=1):
            recent.popleft()
        if state.switches.requests_per_minute and len(recent) >= state.switches.requests_per_minute:
            raise resource_exhausted()
        recent.append(state.now())
        return token

    def _parsed(self, call: Call) -> Json:
        try:
            return parse_object(call.body, lenient=self._state.switches.lenient_json)
        except InvalidJson as error:
            raise invalid_argument(str(error)) from error

    def _catalog(self, call: Call, kind: str, names: Sequence[str]) -> Json:
        self._token(call)
        state = self._state
        if not state.switches.catalog_readable:
            raise permission_denied()
        if kind == "sources":
            entries = source_entries()
        else:
            entries = [destination_entry(entry) for entry in state.world.catalog.values()]
        if not names:
            return call.page(entries, kind)
        for entry in entries:
            if entry["name"] == f"catalog/{kind}/{names[0]}":
                return entry
        raise not_found(f"catalog/{kind}/{names[0]} not found")

    def _workspaces(self, call: Call, names: Sequence[str]) -> Json | None:
        state, workspace = self._state, f"workspaces/{names[0]}" if names else None
        match (call.method, *names[1:]):
            case ("GET",):
                token = self._token(call)
                _require_workspace_scope(token, workspace)
                found = workspace_json(state.world.workspaces[token.workspace], state.switches)
                return found if workspace else call.page([found], "workspaces")
            case ("GET", "sources"):
                token = self._token(call)
                _require_workspace_scope(token, workspace)
                return call.page([source_json(s) for s in state.world.sources_of(token.workspace)], "sources")
            case ("POST", "sources"):
                token = self._token(call)
                _require_workspace_scope(token, workspace, write=True)
                return self._create_source(token.workspace, self._parsed(call))
            case ("GET", "sources", slug):
                _require_workspace_scope(self._token(call), workspace)
                return source_json(self._source(f"{workspace}/sources/{slug}"))
        return None

    def _destinations(self, call: Call, parent: str, names: Sequence[str]) -> Json | None:
        match (call.method, *names):
            case ("GET",):
                _require_workspace_scope(self._token(call), _workspace_of(parent))
                found = self._state.world.destinations_of(self._source(parent).name)
                return call.page([self._json(destination) for destination in found], "destinations")
            case ("POST",):
                return self._create(self._token(call), parent, self._parsed(call))
            case ("GET" | "PATCH" | "DELETE", slug):
                _require_destination_scope(self._token(call), parent, slug, write=call.method != "GET")
                return self._destination(call, self._source(parent), slug)
        return None

    def _create_source(self, workspace: str, body: Json) -> Json:
        given = body.get("source")
        name = given.get("name") if isinstance(given, dict) else None
        catalog_name = given.get("catalog_name") if isinstance(given, dict) else None
        prefix, _, slug = name.rpartition("/sources/") if isinstance(name, str) else ("", "", "")
        if prefix != workspace or not slug or not isinstance(catalog_name, str):
            raise invalid_argument("source.name or source.catalog_name is missing or malformed")
        state = self._state
        try:
            source = state.world.add_source(
                state.world.workspaces[workspace], slug, state.now(), catalog_name=catalog_name
            )
        except NameTaken as error:
            raise already_exists("source already exists") from error
        return source_json(source)

    def _create(self, token: Token, parent: str, body: Json) -> Json:
        state, given = self._state, body.get("destination")
        name = given.get("name") if isinstance(given, dict) else None
        prefix, _, slug = name.rpartition("/destinations/") if isinstance(name, str) else ("", "", "")
        if not slug:
            raise invalid_argument("destination.name is missing or malformed")
        _require_destination_scope(token, parent, slug, write=True)
        source = self._source(parent)
        if prefix != parent:
            raise invalid_argument("destination.name does not belong to this path")
        entry = state.world.catalog.get(slug)
        if entry is None:
            raise not_found(f"catalog/destinations/{slug} not found")
        destination = Destination(source.name, slug, False, "UNSPECIFIED", {}, state.now(), state.now())
        fields = parse_fields(given, destination.name, entry, lenient=state.switches.lenient_json)
        if destination.name in state.world.destinations:
            raise self._destination_exists()
        created = replace(
            destination,
            enabled=bool(fields.enabled),
            connection_mode=fields.connection_mode or "UNSPECIFIED",
            config=dict(fields.config or {}),
        )
        state.world.destinations[created.name] = created
        return self._json(created)

    def _destination_exists(self) -> ConfigApiError:
        self._conflicts += 1
        choice = self._state.switches.destination_exists
        if choice == "alternating":
            choice = "500" if self._conflicts % 2 else "409"
        return internal(DESTINATION_EXISTS) if choice == "500" else already_exists("destination already exists")

    def _destination(self, call: Call, source: Source, slug: str) -> Json:
        state = self._state
        destination = state.world.destinations.get(f"{source.name}/destinations/{slug}")
        if destination is None:
            raise not_found("destination not found")
        if call.method == "DELETE":
            del state.world.destinations[destination.name]
            return {}
        if call.method == "PATCH":
            parsed = self._parsed(call)
            mask = parse_mask(parsed, state.switches)
            fields = parse_fields(
                parsed.get("destination", {}),
                destination.name,
                state.world.catalog[slug],
                lenient=state.switches.lenient_json,
            )
            apply_update(destination, fields, mask, state.now())
        return self._json(destination)

    def _source(self, name: str) -> Source:
        source = self._state.world.sources.get(name)
        if source is None:
            raise not_found("source not found")
        return source

    def _json(self, destination: Destination) -> Json:
        state = self._state
        return as_json(destination, state.world.catalog[destination.slug], state.switches)


def _require_workspace_scope(token: Token, workspace: str | None = None, *, write: bool = False) -> None:
    allowed = {"workspace"} if write else {"workspace", "workspace:read"}
    if token.scope not in allowed or workspace not in {None, token.workspace}:
        raise permission_denied()


def _require_destination_scope(token: Token, source: str, slug: str, *, write: bool) -> None:
    """A destination scope reaches one slug on one source (contract 2.6)."""
    if token.scope == f"destination/{slug}" and token.source == source:
        return
    _require_workspace_scope(token, _workspace_of(source), write=write)


def _workspace_of(source: str) -> str:
    return "/".join(source.split("/")[:2])
