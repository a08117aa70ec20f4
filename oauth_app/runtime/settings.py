"""Settings, read from the environment (and from ``.env`` in the working directory); wrong ones are refused in words."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from enable_with_segment.db.event_log.records import ReplayPolicy
from enable_with_segment.db.store_url import DEFAULT_DATABASE_URL, StoreUrl, event_log_beside
from enable_with_segment.oauth_app.runtime.environment import SettingsInvalid

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
_PATH_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+")


def _http_url(value: str) -> str:
    """Return a URL with scheme and host in lower case, without blanks around it and without a slash at its end."""
    try:
        parts = urlsplit(value.strip())
        port = parts.port
    except ValueError:
        raise ValueError("has a host or a port that cannot be read") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an absolute http(s) URL, such as https://segment.example.com")
    if "?" in value or "#" in value or "@" in parts.netloc:
        raise ValueError("must not hold a query, a fragment or credentials")
    if not _HOST.fullmatch(parts.hostname):
        raise ValueError("has a host that is no name in ASCII letters and no address")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ValueError("must be https, unless the host is localhost")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"


def _own_path(value: str) -> str:
    segments = urlsplit(value).path.split("/")[1:]
    if not all(_PATH_SEGMENT.fullmatch(segment) and segment.strip(".") for segment in segments):
        raise ValueError("must have no path, or one of letters, digits and . _ ~ - such as /integrations/segment")
    return value


def _store_url(value: str) -> str:
    StoreUrl.parse(value)
    return value


def _hook(value: str) -> str:
    module, separator, attribute = value.partition(":")
    if not separator or not module or not attribute:
        raise ValueError("must have the form module:attribute, such as acme.handlers:crm")
    return value


def _networks(values: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(str(ip_network(value, strict=False)) for value in values)
    except ValueError:
        raise ValueError("must list addresses or networks, such as 10.0.0.0/8, separated by commas") from None


def _origins(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or value != f"{parts.scheme}://{parts.netloc}" or not parts.hostname:
            raise ValueError("must list origins, such as https://app.example.com, without a path")
    return values


def _people(values: tuple[str, ...]) -> tuple[str, ...]:
    if not all("@" in value or value.startswith("group:") for value in values):
        raise ValueError("must list e-mail addresses and group:NAME, separated by commas")
    return values


def _slug(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+", value):
        raise ValueError("must be the slug in the address of your destination's catalog page, such as acme-crm")
    return value


def _help(value: str) -> str:
    parts = urlsplit(value)
    if not (parts.scheme in {"http", "https"} and parts.hostname) and not (parts.scheme == "mailto" and parts.path):
        raise ValueError("must be an https or mailto URL, such as mailto:help@example.com")
    return value


def _login(value: str) -> str:
    parts = urlsplit(value)
    own_path = not parts.scheme and not parts.netloc and value.startswith("/")
    if not own_path and not (parts.scheme in {"http", "https"} and parts.hostname):
        raise ValueError("must be an absolute http(s) URL, or a path such as /login")
    return value


Names = Annotated[tuple[str, ...], NoDecode, AfterValidator(_people)]
Origins = Annotated[tuple[str, ...], NoDecode, AfterValidator(_origins)]
Networks = Annotated[tuple[str, ...], NoDecode, AfterValidator(_networks)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
BaseUrl = Annotated[str, AfterValidator(_http_url), AfterValidator(_own_path)]
DatabaseUrl = Annotated[str, AfterValidator(_store_url)]
Hook = Annotated[str, AfterValidator(_hook)]


class Settings(BaseSettings):
    """Everything that can be configured. Field names are the environment's names in lower case; frozen."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    base_url: BaseUrl = Field(
        default="http://localhost:8888", description="The public address of this service; it may have a path."
    )
    partner_name: str = Field(
        default="this product", description="What customers call your product; shown on every page."
    )
    support_url: Annotated[str, AfterValidator(_help)] | None = Field(
        default=None, description="Where a customer finds help: an https or mailto URL, linked from error pages."
    )

    database_url: DatabaseUrl = Field(
        default=DEFAULT_DATABASE_URL, description="The control store: installs, keys, flows, audit."
    )
    event_log_url: DatabaseUrl | None = Field(
        default=None,
        description="The event log; by default beside the control store (its own SQLite file, same PostgreSQL).",
    )
    retention_days: int = Field(
        default=90,
        ge=1,
        le=3650,
        description="How long received events are kept after they were handled or given up.",
    )
    retention_gib: float | None = Field(
        default=None,
        gt=0,
        description="How large the event log may grow, in GiB, before the oldest events go; by default unbounded.",
    )
    most_pending_events: int = Field(
        default=10_000_000,
        ge=0,
        le=1_000_000_000_000,
        description="How many events may wait for your handlers before new ones are answered 503; 0 for no limit.",
    )
    dedupe_days: int = Field(
        default=30,
        ge=1,
        le=3650,
        description="For how long a message that comes again counts as a duplicate; at most RETENTION_DAYS.",
    )
    replays: ReplayPolicy = Field(
        default=ReplayPolicy.HOLD,
        description="An event that Segment replays after it was handled: hold (count it only) or dispatch it again.",
    )
    encryption_keys: SecretStr | None = Field(
        default=None, description="Keys for stored secrets, 'id:base64' separated by commas; the first one encrypts."
    )
    encryption_keys_file: str | None = Field(
        default=None, description="A file that holds the keys instead, one 'id:base64' a line."
    )
    encryption_kms_url: HttpUrl | None = Field(
        default=None, description="A key service that unwraps the keys when the service starts."
    )
    encryption_kms_token: SecretStr | None = Field(default=None, description="The bearer token for the key service.")

    segment_client_id: str | None = Field(default=None, description="The client id of your Segment App.")
    segment_client_secret: SecretStr | None = Field(default=None, description="The client secret of your Segment App.")
    segment_destination: Annotated[str, AfterValidator(_slug)] | None = Field(
        default=None, description="The slug of your destination in Segment's catalog."
    )
    segment_identity_url: HttpUrl = Field(
        default="https://id.segmentapis.com",
        description="Base of Segment's OAuth endpoints (/oauth2/auth, /oauth2/token).",
    )
    segment_config_api_url: HttpUrl = Field(
        default="https://platform.segmentapis.com/v1beta", description="Base of the Config API, version included."
    )
    segment_pkce: bool = Field(default=True, description="Send a PKCE challenge (S256) with the authorization request.")

    handlers: Hook | None = Field(default=None, description="Your Subscription, as module:attribute.")
    handler_seconds: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="How long one call of a handler may take before it is cut off and tried again later.",
    )
    calls_per_handler: int = Field(
        default=32, ge=1, le=1000, description="How many calls of one handler run at the same moment in a process."
    )
    partner_session: Hook | None = Field(
        default=None,
        description="An async function (request) -> account or None that knows who is signed in to your product.",
    )
    partner_login_url: Annotated[str, AfterValidator(_login)] | None = Field(
        default=None, description="Where /auth/segment sends a browser that nobody is signed in with."
    )
    return_origins: Origins = Field(
        default=(),
        description="Origins a connect link may return to, separated by commas; its own origin always may be.",
    )
    connect_link_minutes: int = Field(default=15, ge=1, le=1440, description="How long a connect link lives.")
    overwrite_destination: Literal["ask", "always"] = Field(
        default="ask",
        description="When the destination already holds another API key: ask the customer, or overwrite it.",
    )
    reconcile: Literal["report", "repair"] = Field(
        default="report",
        description="When a destination was changed in Segment: tell you, or put it right as well.",
    )
    reconcile_hours: int = Field(
        default=24, ge=0, le=720, description="How often every destination is looked at in Segment; 0 for never."
    )
    removal_grace_hours: int = Field(
        default=72,
        ge=1,
        le=8760,
        description="How long no event may have come before the keys of an install removed in Segment are erased.",
    )
    api_key_hook: Hook | None = Field(
        default=None, description="A function (account, component) -> API key, in place of the service's own keys."
    )
    oidc_issuer: HttpUrl | None = Field(
        default=None, description="The identity provider that operators sign in with, as it names itself."
    )
    oidc_client_id: str | None = Field(default=None, description="Our client id there.")
    oidc_client_secret: SecretStr | None = Field(default=None, description="Our client secret there.")
    oidc_groups_claim: str = Field(default="groups", description="The claim of an ID token that lists groups.")
    operators: Names = Field(
        default=(),
        description="Who may act in the dashboard: e-mail addresses and group:NAME, separated by commas.",
    )
    viewers: Names = Field(default=(), description="Who may look at the dashboard, in the same form.")
    trusted_proxies: Networks = Field(
        default=(),
        description="Networks of your own proxies, separated by commas; only their X-Forwarded-For is believed.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="The least level that is logged."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Log lines for people, or one JSON object each."
    )
    metrics_token: SecretStr | None = Field(
        default=None,
        description="Who presents it as a bearer token may read /metrics; without it, only private networks may.",
    )
    traces: bool = Field(default=False, description="Write OpenTelemetry spans for received and handled events.")

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        given = {name: data[name] for name in _LISTS if isinstance(data.get(name), str)}
        return {**data, **{name: _split(text, _LISTS[name]) for name, text in given.items()}}

    @model_validator(mode="after")
    def _dedupe_within_retention(self) -> Self:
        if self.dedupe_days > self.retention_days:
            raise ValueError("DEDUPE_DAYS must not be longer than RETENTION_DAYS: what is forgotten is not recognised")
        return self

    @model_validator(mode="after")
    def _all_of_the_app(self) -> Self:
        given = {
            "SEGMENT_CLIENT_ID": self.segment_client_id,
            "SEGMENT_CLIENT_SECRET": self.segment_client_secret,
            "SEGMENT_DESTINATION": self.segment_destination,
        }
        missing = [name for name, value in given.items() if value is None]
        if missing and len(missing) < len(given):
            raise ValueError(
                f"{', '.join(missing)} must be set too: the three SEGMENT_ settings of your App go together"
            )
        return self

    @model_validator(mode="after")
    def _all_of_the_login(self) -> Self:
        given = {
            "OIDC_ISSUER": self.oidc_issuer,
            "OIDC_CLIENT_ID": self.oidc_client_id,
            "OIDC_CLIENT_SECRET": self.oidc_client_secret,
        }
        missing = [name for name, value in given.items() if value is None]
        if missing and len(missing) < len(given):
            raise ValueError(f"{', '.join(missing)} must be set too: the three OIDC_ settings go together")
        if not missing and not self.operators and not self.viewers:
            raise ValueError("OPERATORS must name somebody: with OIDC_ISSUER alone nobody could sign in")
        return self

    @model_validator(mode="after")
    def _one_place_for_keys(self) -> Self:
        if self.encryption_keys is not None and self.encryption_keys_file is not None:
            raise ValueError("ENCRYPTION_KEYS and ENCRYPTION_KEYS_FILE are both set: keep the keys in one place")
        if self.encryption_kms_token is not None and self.encryption_kms_url is None:
            raise ValueError("ENCRYPTION_KMS_TOKEN is set without ENCRYPTION_KMS_URL")
        return self

    @property
    def oauth_enabled(self) -> bool:
        """Whether a Segment App is configured; without one only pasted API keys work (contract 4.9, route B)."""
        return self.segment_client_id is not None

    @property
    def redirect_uri(self) -> str:
        """The callback, byte for byte as it must be registered with the App."""
        return f"{self.base_url}/auth/segment/callback"

    @property
    def base_path(self) -> str:
        """The path of ``BASE_URL``, such as ``/segment``; empty where the service has a host of its own."""
        return urlsplit(self.base_url).path

    def path_to(self, path: str) -> str:
        """Return what a browser of this host reaches a page of ours by, such as ``/segment/dashboard``."""
        return self.base_path + path

    @property
    def scope(self) -> str:
        """The only scope the flow asks for (contract 2.6: the word is singular)."""
        return f"destination/{self.segment_destination}"

    @property
    def on_loopback(self) -> bool:
        """Whether the service is only reached from this machine."""
        return urlsplit(self.base_url).hostname in _LOOPBACK

    @property
    def secure_cookies(self) -> bool:
        """Whether cookies carry ``Secure``: always, except on a plain http loopback address."""
        return self.base_url.startswith("https://")

    @property
    def effective_event_log_url(self) -> str:
        """Where the event log lives."""
        return self.event_log_url or event_log_beside(self.database_url)


_LISTS = {"return_origins": "/", "operators": "", "viewers": "", "trusted_proxies": ""}
"""Settings that are lists, and what is cut off the end of their items."""


def _split(text: str, cut: str) -> tuple[str, ...]:
    items = (item.strip().rstrip(cut) if cut else item.strip() for item in text.split(","))
    return tuple(item for item in items if item)


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        SettingsInvalid: one sentence for each setting that is wrong; values are never repeated.
    """
    try:
        return Settings()
    except ValidationError as problem:
        raise SettingsInvalid([_sentence(error) for error in problem.errors(include_input=False)]) from None


def _sentence(error: object) -> str:
    assert isinstance(error, dict)  # noqa: S101 - narrows pydantic's TypedDict
    name = "_".join(str(part) for part in error["loc"]).upper()
    text = str(error["msg"]).removeprefix("Value error, ")
    return f"{name}: {text}" if name else text
