"""Adding to the sandbox's world under `/_sandbox/`: users, workspaces, sources, catalog entries, Apps, filters."""

from __future__ import annotations

from typing import cast, get_args

from starlette.requests import Request
from starlette.routing import Route

from enable_with_segment.segment_sandbox.config import (
    EVENT_TYPES,
    AppSeed,
    CatalogDestination,
    ConfigError,
    SettingSpec,
    SettingType,
    User,
)
from enable_with_segment.segment_sandbox.control.http import Answer, ControlError, body_of, route, text, texts
from enable_with_segment.segment_sandbox.state import State
from enable_with_segment.segment_sandbox.world import NameTaken


class ControlSeed:
    """Handlers that create things, for tests and demos that need more than the seed."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        return [
            route("POST", "users", self.add_user),
            route("POST", "workspaces", self.add_workspace),
            route("POST", "sources", self.add_source),
            route("POST", "catalog", self.set_catalog_destination),
            route("POST", "apps", self.add_app),
            route("POST", "filters", self.set_filters),
        ]

    async def add_user(self, request: Request) -> Answer:
        """`{"email", "name"?}`"""
        body = await body_of(request)
        email = text(body, "email")
        user = User(email, text(body, "name", email))
        self._state.world.users[user.email] = user
        return {"email": user.email, "name": user.name}

    async def add_workspace(self, request: Request) -> Answer:
        """`{"slug", "display_name"?, "owners": [email], "members": [email]}`"""
        body, state = await body_of(request), self._state
        try:
            slug = text(body, "slug")
            workspace = state.world.add_workspace(slug, text(body, "display_name", slug), state.now())
        except NameTaken as error:
            raise ControlError(str(error), 409) from error
        workspace.owners.update(texts(body, "owners"))
        workspace.members.update(texts(body, "members"))
        return {"name": workspace.name, "id": workspace.id}

    async def add_source(self, request: Request) -> Answer:
        """`{"workspace": "workspaces/northwind", "slug", "display_name"?, "write_key"?}`"""
        body, state = await body_of(request), self._state
        workspace = state.world.workspaces.get(text(body, "workspace"))
        if workspace is None:
            raise ControlError("There is no such workspace.", 404)
        try:
            source = state.world.add_source(
                workspace,
                text(body, "slug"),
                state.now(),
                display_name=text(body, "display_name", ""),
                write_key=text(body, "write_key", ""),
            )
        except NameTaken as error:
            raise ControlError(str(error), 409) from error
        return {"name": source.name, "write_keys": source.write_keys, "project_id": source.project_id}

    async def set_catalog_destination(self, request: Request) -> Answer:
        """Add or replace an entry: `{"slug", "endpoint", "display_name"?, "settings"?: [...], "supported_types"?}`"""
        body, catalog = await body_of(request), self._state.world.catalog
        slug = text(body, "slug")
        known = catalog.get(slug)
        try:
            entry = CatalogDestination(
                slug=slug,
                display_name=text(body, "display_name", known.display_name if known else slug),
                endpoint=text(body, "endpoint", known.endpoint if known else None),
                settings=_settings(body["settings"])
                if "settings" in body
                else (known.settings if known else (SettingSpec("apiKey", "API Key", required=True, sensitive=True),)),
                supported_types=texts(body, "supported_types") or EVENT_TYPES,
                accepts_client_channel=body.get("accepts_client_channel") is not False,
            )
        except ConfigError as error:
            raise ControlError(str(error)) from error
        catalog[slug] = entry
        return {"slug": entry.slug, "display_name": entry.display_name, "endpoint": entry.endpoint}

    async def add_app(self, request: Request) -> Answer:
        """`{"slug", "scope", "redirect_uris": [...], "display_name"?, "client_id"?, "client_secret"?}`"""
        body, state = await body_of(request), self._state
        slug = text(body, "slug")
        try:
            seed = AppSeed(
                client_id=text(body, "client_id", "") or state.identifiers.uuid(),
                client_secret=text(body, "client_secret", "") or state.identifiers.alphanumeric(12),
                redirect_uris=texts(body, "redirect_uris"),
                scope=text(body, "scope"),
                slug=slug,
                display_name=text(body, "display_name", slug),
            )
            app = state.world.add_app(seed)
        except ConfigError as error:
            raise ControlError(str(error)) from error
        except NameTaken as error:
            raise ControlError(str(error), 409) from error
        return {"name": app.name, "client_id": seed.client_id, "client_secret": seed.client_secret}

    async def set_filters(self, request: Request) -> Answer:
        """`{"destination_name", "drop_types": ["page"], "drop_events": ["Product Viewed"]}`"""
        body = await body_of(request)
        destination = self._state.world.destinations.get(text(body, "destination_name"))
        if destination is None:
            raise ControlError("There is no such destination.", 404)
        destination.dropped_types = set(texts(body, "drop_types"))
        destination.dropped_events = set(texts(body, "drop_events"))
        return {"name": destination.name}


def _settings(given: object) -> tuple[SettingSpec, ...]:
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise ControlError("settings is not an array of objects.")
    return tuple(_setting(item) for item in given)


def _setting(item: dict[str, object]) -> SettingSpec:
    kind, key = text(item, "type", "string"), text(item, "key")
    if kind not in get_args(SettingType):
        raise ControlError(f"A setting's type is one of {', '.join(get_args(SettingType))}.")
    return SettingSpec(
        key=key,
        display_name=text(item, "display_name", key),
        type=cast(SettingType, kind),
        required=item.get("required") is True,
        default=item.get("default"),
        choices=texts(item, "choices"),
        sensitive=item.get("sensitive") is True,
    )
