"""What exists at Segment: workspaces, sources, destinations, Apps, installs and tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from enable_with_segment.segment_sandbox.config import AppSeed, CatalogDestination, SandboxConfig, User
from enable_with_segment.segment_sandbox.delivery.webhooks import WebhooksDestination
from enable_with_segment.segment_sandbox.identifiers import Identifiers

TOKEN_LIFETIME = timedelta(hours=1)

_T = TypeVar("_T")


class NameTaken(ValueError):
    """Something of that name exists already."""


@dataclass(slots=True)
class Workspace:
    """A customer's tenant. `slug` names it in paths, `id` is opaque."""

    slug: str
    id: str
    display_name: str
    created_at: datetime
    owners: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)
    suppressed_user_ids: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        return f"workspaces/{self.slug}"


@dataclass(slots=True)
class Source:
    """An origin of events. `project_id` is what deliveries carry as `projectId`."""

    slug: str
    workspace: str
    display_name: str
    catalog_name: str
    write_keys: list[str]
    project_id: str
    created_at: datetime

    @property
    def name(self) -> str:
        return f"{self.workspace}/sources/{self.slug}"


@dataclass(slots=True)
class Destination:
    """One catalog destination connected to one source. `config` holds only what was set, by setting key."""

    source: str
    slug: str
    enabled: bool
    connection_mode: str
    config: dict[str, object]
    created_at: datetime
    updated_at: datetime
    dropped_types: set[str] = field(default_factory=set)
    dropped_events: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        return f"{self.source}/destinations/{self.slug}"


@dataclass(slots=True)
class App:
    """A partner's registered OAuth client."""

    name: str
    seed: AppSeed
    profile: dict[str, object] = field(default_factory=dict)

    @property
    def destination_slug(self) -> str | None:
        """The slug of a `destination/<slug>` scope, or None for a workspace scope."""
        kind, _, slug = self.seed.scope.partition("/")
        return slug if kind == "destination" and slug else None


@dataclass(slots=True)
class Install:
    """The record that an App was authorized on a workspace; an actor of its own (contract 1)."""

    name: str
    client_id: str
    workspace: str
    source: str | None
    scope: str
    created_by: str
    created_at: datetime


@dataclass(slots=True)
class Token:
    """A bearer token: an install's, or an access token made by a Workspace Owner."""

    value: str
    scope: str
    workspace: str
    source: str | None
    expires_at: datetime | None
    install: str | None = None
    code: str | None = None


class World:
    """Everything that the sandbox's APIs read and change."""

    def __init__(self, config: SandboxConfig, identifiers: Identifiers, now: datetime) -> None:
        self._identifiers = identifiers
        self.users: dict[str, User] = {}
        self.workspaces: dict[str, Workspace] = {}
        self.sources: dict[str, Source] = {}
        self.destinations: dict[str, Destination] = {}
        self.webhooks: dict[str, WebhooksDestination] = {}
        self.catalog: dict[str, CatalogDestination] = {}
        self.apps: dict[str, App] = {}
        self.installs: dict[str, Install] = {}
        self.tokens: dict[str, Token] = {}
        for user in config.users:
            self.users[user.email] = user
        for seed in config.workspaces:
            workspace = self.add_workspace(seed.slug, seed.display_name, now)
            workspace.owners.update(seed.owners)
            workspace.members.update(seed.members)
            for source in seed.sources:
                self.add_source(
                    workspace, source.slug, now, display_name=source.display_name, write_key=source.write_key
                )
        for entry in config.catalog:
            self.catalog[entry.slug] = entry
        for app in config.apps:
            self.add_app(app)

    def add_workspace(self, slug: str, display_name: str, now: datetime) -> Workspace:
        """Raises `NameTaken`."""
        workspace = Workspace(slug, self._identifiers.hex32()[:24], display_name or slug, now)
        return _added(self.workspaces, workspace.name, workspace, workspace.name)

    def add_source(
        self,
        workspace: Workspace,
        slug: str,
        now: datetime,
        *,
        display_name: str = "",
        write_key: str = "",
        catalog_name: str = "catalog/sources/http-api",
    ) -> Source:
        """Raises `NameTaken` for a source of this name, or for a write key in use."""
        source = Source(
            slug=slug,
            workspace=workspace.name,
            display_name=display_name or slug,
            catalog_name=catalog_name,
            write_keys=[write_key or self._identifiers.alphanumeric(32)],
            project_id=self._identifiers.alphanumeric(10),
            created_at=now,
        )
        if self.source_by_write_key(source.write_keys[0]):
            raise NameTaken(f"The write key of {source.name} exists already.")
        return _added(self.sources, source.name, source, source.name)

    def add_app(self, seed: AppSeed) -> App:
        """Raises `NameTaken` for a client id in use."""
        app = App(self._unused_name("apps"), seed)
        return _added(self.apps, seed.client_id, app, f"An App with the client id {seed.client_id}")

    def add_install(self, app: App, workspace: str, source: str | None, user: str, now: datetime) -> Install:
        """Install an App. Raises `NameTaken` when it is installed on this workspace already (contract 2.8)."""
        if self.install_of(app.seed.client_id, workspace):
            raise NameTaken("install already exists")
        install = Install(
            name=self._unused_name("installs"),
            client_id=app.seed.client_id,
            workspace=workspace,
            source=source,
            scope=app.seed.scope,
            created_by=user,
            created_at=now,
        )
        self.installs[install.name] = install
        return install

    def issue_token(self, install: Install, value: str, now: datetime, code: str | None = None) -> Token:
        """Give an install a new token; every earlier one of it stops working at once (contract 2.7)."""
        self.revoke_tokens(install.name)
        token = Token(
            value=value,
            scope=install.scope,
            workspace=install.workspace,
            source=install.source,
            expires_at=now + TOKEN_LIFETIME,
            install=install.name,
            code=code,
        )
        self.tokens[value] = token
        return token

    def revoke_tokens(self, install: str) -> None:
        """End every token of an install."""
        self._end_tokens(lambda token: token.install == install)

    def revoke_tokens_of_code(self, code: str) -> None:
        """End the token that this authorization code was exchanged for."""
        self._end_tokens(lambda token: token.code == code)

    def live_token(self, value: str, now: datetime) -> Token | None:
        """The token with this value, unless it is unknown, replaced or expired."""
        token = self.tokens.get(value)
        if token is None or (token.expires_at is not None and token.expires_at <= now):
            return None
        return token

    def uninstall(self, name: str) -> bool:
        """Remove an install and its tokens. Nobody is told (contract 2.7). False when there is none."""
        self.revoke_tokens(name)
        return self.installs.pop(name, None) is not None

    def install_of(self, client_id: str, workspace: str) -> Install | None:
        wanted = (client_id, workspace)
        return next((i for i in self.installs.values() if (i.client_id, i.workspace) == wanted), None)

    def owned_workspaces(self, email: str) -> list[Workspace]:
        return [workspace for workspace in self.workspaces.values() if email in workspace.owners]

    def sources_of(self, workspace: str) -> list[Source]:
        return [source for source in self.sources.values() if source.workspace == workspace]

    def source_by_write_key(self, write_key: str) -> Source | None:
        return next((source for source in self.sources.values() if write_key in source.write_keys), None)

    def destinations_of(self, source: str) -> Iterator[Destination]:
        return (destination for destination in self.destinations.values() if destination.source == source)

    def webhooks_of(self, source: str) -> Iterator[WebhooksDestination]:
        return (webhook for webhook in self.webhooks.values() if webhook.source == source)

    def _end_tokens(self, ends: Callable[[Token], bool]) -> None:
        self.tokens = {value: token for value, token in self.tokens.items() if not ends(token)}

    def _unused_name(self, kind: str) -> str:
        taken = {*self.installs, *(app.name for app in self.apps.values())}
        while (name := f"{kind}/{self._identifiers.number()}") in taken:
            continue
        return name


def _added(things: dict[str, _T], key: str, thing: _T, what: str) -> _T:
    """Keep a thing under its key; raises `NameTaken` if there is one already."""
    if key in things:
        raise NameTaken(f"{what} exists already.")
    things[key] = thing
    return thing
