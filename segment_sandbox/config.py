"""What a sandbox starts with: people, workspaces, the catalog, partner Apps, and how it should behave."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from urllib.parse import urlsplit

from enable_with_segment.segment_sandbox.switches import Switches, profile

SettingType = Literal["string", "boolean", "number", "select", "map", "mixed"]
EVENT_TYPES = ("identify", "track", "page", "screen", "group", "alias", "delete")
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class ConfigError(ValueError):
    """A configuration value that the sandbox cannot work with; the message says which and why."""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who can log in at the sandbox. There are no passwords."""

    email: str
    name: str


@dataclass(frozen=True, slots=True)
class SourceSeed:
    """A source and the write key that its events are sent with."""

    slug: str
    write_key: str
    display_name: str = ""


@dataclass(frozen=True, slots=True)
class WorkspaceSeed:
    """A workspace, its people by e-mail address, and its sources. Only owners may consent (contract 2.3)."""

    slug: str
    display_name: str
    owners: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    sources: tuple[SourceSeed, ...] = ()


@dataclass(frozen=True, slots=True)
class SettingSpec:
    """One field of a catalog destination, as a partner defines it (contract 3.5, 5.3)."""

    key: str
    display_name: str
    type: SettingType = "string"
    required: bool = False
    default: object = None
    choices: tuple[str, ...] = ()
    sensitive: bool = False


@dataclass(frozen=True, slots=True)
class CatalogDestination:
    """A partner's entry in the catalog, with the one endpoint that all its deliveries go to (contract 5.2).

    Raises `ConfigError` for an endpoint that is not an absolute http(s) URL.
    """

    slug: str
    display_name: str
    endpoint: str
    settings: tuple[SettingSpec, ...] = ()
    api_key_setting: str = "apiKey"
    supported_types: tuple[str, ...] = EVENT_TYPES
    accepts_client_channel: bool = True

    def __post_init__(self) -> None:
        parts = urlsplit(self.endpoint)
        if parts.scheme not in {"http", "https"} or not parts.hostname or not self.endpoint.isprintable():
            raise ConfigError(f"Endpoint {self.endpoint!r} must be an absolute http(s) URL.")

    def setting(self, key: str) -> SettingSpec | None:
        """The setting with this key, or None."""
        return next((setting for setting in self.settings if setting.key == key), None)


@dataclass(frozen=True, slots=True)
class AppSeed:
    """A partner's App: one OAuth client (contract 2.2).

    Raises `ConfigError` for more than five redirect URIs, or for one that Segment would not register.
    """

    client_id: str
    client_secret: str
    redirect_uris: tuple[str, ...]
    scope: str
    slug: str
    display_name: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.redirect_uris) <= 5:
            raise ConfigError("An App has between one and five redirect URIs.")
        for uri in self.redirect_uris:
            check_redirect_uri(uri)


def check_redirect_uri(uri: str) -> None:
    """Raise `ConfigError` unless this may be registered: absolute, no fragment, https or loopback (contract 2.3)."""
    parts = urlsplit(uri)
    host = parts.hostname or ""
    if parts.scheme not in {"http", "https"} or not host or "#" in uri:
        raise ConfigError(f"Redirect URI {uri!r} must be an absolute http(s) URL without a fragment.")
    if parts.scheme == "http" and host not in LOOPBACK_HOSTS and not host.endswith(".localhost"):
        raise ConfigError(f"Redirect URI {uri!r} must use https: plain http is for loopback hosts only.")


USERS = (
    User("owner@northwind.example", "Northwind owner"),
    User("member@northwind.example", "Northwind member"),
    User("owner@contoso.example", "Contoso owner"),
)

WORKSPACES = (
    WorkspaceSeed(
        slug="northwind",
        display_name="Northwind",
        owners=("owner@northwind.example",),
        members=("member@northwind.example",),
        sources=(
            SourceSeed("web-prod", "northwindWebProdSandboxWriteKey1", "Web (production)"),
            SourceSeed("mobile-prod", "northwindMobileProdSandboxWriteK", "Mobile (production)"),
        ),
    ),
    WorkspaceSeed(
        slug="contoso-labs",
        display_name="Contoso Labs",
        owners=("owner@contoso.example",),
        sources=(SourceSeed("website", "contosoLabsWebsiteSandboxWriteK1", "Website"),),
    ),
)

ACME_SETTINGS = (
    SettingSpec("apiKey", "API Key", required=True, sensitive=True),
    SettingSpec("region", "Region", type="select", default="us", choices=("us", "eu")),
)

DEFAULT_ENDPOINT = "http://127.0.0.1:8888/subscriptions/acme-crm"
DEFAULT_CLIENT_ID = "0c7a5d1e-9b34-4c7e-8a52-6d1f3be0aa17"
DEFAULT_CLIENT_SECRET = "q7VtR2mZk9Lp"  # noqa: S105  # the sandbox's public development credential
DEFAULT_REDIRECT_URIS = (
    "http://localhost:8888/auth/segment/callback",
    "http://127.0.0.1:8888/auth/segment/callback",
)


def acme_crm(endpoint: str = DEFAULT_ENDPOINT) -> CatalogDestination:
    """The catalog destination that the sandbox offers by default."""
    return CatalogDestination("acme-crm", "Acme CRM", endpoint, ACME_SETTINGS)


def acme_app(
    client_id: str = DEFAULT_CLIENT_ID,
    client_secret: str = DEFAULT_CLIENT_SECRET,
    redirect_uris: tuple[str, ...] = DEFAULT_REDIRECT_URIS,
) -> AppSeed:
    """The App that may enable Acme CRM in a customer's workspace."""
    return AppSeed(client_id, client_secret, redirect_uris, "destination/acme-crm", "acme-crm", "Acme CRM")


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """Everything a sandbox starts from; `POST /_sandbox/reset` comes back to it.

    `time_scale` is sandbox seconds per real second: 3600 lets an hour pass each second, and 0 freezes the
    clock so that only `POST /_sandbox/clock` moves it. `seed` makes ids, jitter and anomalies repeatable;
    without one they are random. `max_records` bounds what is kept of requests, events and deliveries.
    """

    profile: str = "observed"
    switches: Mapping[str, object] = field(default_factory=dict)
    users: tuple[User, ...] = USERS
    workspaces: tuple[WorkspaceSeed, ...] = WORKSPACES
    catalog: tuple[CatalogDestination, ...] = field(default_factory=lambda: (acme_crm(),))
    apps: tuple[AppSeed, ...] = field(default_factory=lambda: (acme_app(),))
    time_scale: float = 1.0
    start: datetime | None = None
    seed: int | None = None
    max_records: int = 50_000

    def __post_init__(self) -> None:
        if self.time_scale < 0:
            raise ConfigError("time_scale is sandbox seconds per real second and cannot be negative.")
        self.starting_switches()

    def starting_switches(self) -> Switches:
        """The profile's switches with this configuration's own on top. Raises `UnknownSwitch`."""
        return profile(self.profile).changed(self.switches)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> SandboxConfig:
        """Read `SANDBOX_*` variables; each one that is absent keeps its default.

        `SANDBOX_ENDPOINT`, `SANDBOX_CLIENT_ID`, `SANDBOX_CLIENT_SECRET`, `SANDBOX_REDIRECT_URI` (several
        separated by commas), `SANDBOX_PROFILE`, `SANDBOX_TIME_SCALE`, `SANDBOX_SEED`.
        Raises `ConfigError` or `UnknownSwitch` for a value that cannot be used.
        """
        given = os.environ if environment is None else environment
        uris = given.get("SANDBOX_REDIRECT_URI")
        app = acme_app(
            client_id=given.get("SANDBOX_CLIENT_ID", DEFAULT_CLIENT_ID),
            client_secret=given.get("SANDBOX_CLIENT_SECRET", DEFAULT_CLIENT_SECRET),
            redirect_uris=tuple(uri.strip() for uri in uris.split(",")) if uris else DEFAULT_REDIRECT_URIS,
        )
        seed = given.get("SANDBOX_SEED")
        try:
            time_scale = float(given.get("SANDBOX_TIME_SCALE", "1"))
            seed_number = int(seed) if seed else None
        except ValueError as error:
            raise ConfigError("SANDBOX_TIME_SCALE takes a number and SANDBOX_SEED a whole number.") from error
        return cls(
            profile=given.get("SANDBOX_PROFILE", "observed"),
            catalog=(acme_crm(given.get("SANDBOX_ENDPOINT", DEFAULT_ENDPOINT)),),
            apps=(app,),
            time_scale=time_scale,
            seed=seed_number,
        )
