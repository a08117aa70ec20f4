"""Every choice the sandbox makes where Segment's behaviour is unknown or contradictory, by name.

A switch exists for each point that the contract marks as assumed or contradicted; three profiles set them
all at once (contract 12.3). A partner service is only finished when it works in every profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Literal, get_args, get_origin, get_type_hints

ProfileName = Literal["documented", "observed", "hostile"]


class UnknownSwitch(ValueError):
    """A switch or profile name that does not exist, or a value that the switch does not take."""


@dataclass(frozen=True, slots=True)
class Switches:
    """The state of every switch. The defaults are the `observed` profile."""

    # Authorization (contract 2.3, 2.4, 2.5, 2.8)
    state_on_validation_error: Literal["empty", "echo"] = "empty"
    short_state: Literal["accepted", "invalid_state"] = "accepted"
    consent_deny: Literal["hidden", "none", "custom_error_with_html"] = "none"
    install_exists: Literal["callback", "token_endpoint_409", "token_endpoint_400", "page"] = "callback"
    install_created_at: Literal["exchange", "consent"] = "exchange"
    unknown_grant_type: Literal["unsupported_grant_type", "invalid_request"] = "unsupported_grant_type"
    pkce: Literal["verified", "ignored"] = "verified"
    source_names: Literal["one", "two"] = "one"

    # Refresh (contract 2.7)
    refresh_names: Literal["as_issued", "singular_install", "missing_optional_fields"] = "singular_install"
    refreshed_as: Literal["uuid", "long_opaque"] = "uuid"

    # Config API (contract 3)
    destination_exists: Literal["409", "500", "alternating"] = "500"
    bad_path: Literal["404", "503_text"] = "503_text"
    connection_mode_answer: Literal["echo", "unspecified"] = "unspecified"
    mask_sensitive_settings: bool = False
    nested_update_mask: bool = False
    unknown_mask_path: Literal["ignored", "invalid_argument"] = "ignored"
    lenient_json: bool = True
    workspace_name_style: Literal["prefixed", "bare"] = "prefixed"
    catalog_readable: bool = True
    create_status: Literal["200", "201"] = "200"
    requests_per_minute: int = 200

    # Ingestion (contract 8.2)
    ingestion_dedupe: Literal["global", "per_source"] = "global"
    ingestion_dedupe_hours: float = 24.0
    ingestion_overloaded: bool = False

    # Delivery (contract 5)
    settings_header_when_empty: Literal["absent", "empty", "empty_object", "plain"] = "absent"
    delivery_timeout_seconds: float = 5.0
    delivery_parallelism: int = 8
    follow_redirects: bool = False
    retry_408_and_423: Literal["no", "yes", "random"] = "no"
    retry_501: Literal["no", "yes", "random"] = "no"
    retry_505_and_up: Literal["no", "yes", "random"] = "yes"
    honour_retry_after: bool = False
    duplicate_rate: float = 0.01
    reorder_rate: float = 0.05
    anomalies: Literal["none", "mixed", "all"] = "mixed"
    delete_fan_out: bool = True
    verify_tls: bool = True
    allow_plain_http: bool = True

    def as_dict(self) -> dict[str, object]:
        """Every switch by name, as JSON-ready values."""
        return asdict(self)

    def changed(self, values: Mapping[str, object]) -> Switches:
        """These switches with some set anew. Raises `UnknownSwitch` for a bad name or value."""
        kinds = get_type_hints(Switches)
        return replace(self, **{name: _checked(name, kinds.get(name), value) for name, value in values.items()})  # type: ignore[arg-type]  # each value is checked against its own field


def _checked(name: str, kind: object, value: object) -> object:
    if kind is None:
        known = ", ".join(field.name for field in fields(Switches))
        raise UnknownSwitch(f"There is no switch named {name!r}. Known: {known}.")
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UnknownSwitch(f"Switch {name!r} takes one of {', '.join(map(repr, get_args(kind)))}.")
        return value
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UnknownSwitch(f"Switch {name!r} takes a {getattr(kind, '__name__', kind)}.")
    if isinstance(value, (int, float)) and value < 0:
        raise UnknownSwitch(f"Switch {name!r} cannot be negative.")
    return value


OBSERVED = Switches()

DOCUMENTED = Switches(
    state_on_validation_error="echo",
    consent_deny="hidden",
    pkce="ignored",
    refresh_names="as_issued",
    destination_exists="409",
    bad_path="404",
    connection_mode_answer="echo",
    lenient_json=False,
    duplicate_rate=0.0,
    reorder_rate=0.0,
    anomalies="none",
    retry_501="yes",
)

HOSTILE = Switches(
    short_state="invalid_state",
    consent_deny="custom_error_with_html",
    install_exists="token_endpoint_409",
    refresh_names="missing_optional_fields",
    refreshed_as="long_opaque",
    destination_exists="alternating",
    mask_sensitive_settings=True,
    settings_header_when_empty="empty_object",
    delivery_timeout_seconds=2.0,
    retry_408_and_423="random",
    retry_501="random",
    retry_505_and_up="random",
    duplicate_rate=0.2,
    reorder_rate=0.5,
    anomalies="all",
)

PROFILES: Mapping[ProfileName, Switches] = MappingProxyType(
    {"documented": DOCUMENTED, "observed": OBSERVED, "hostile": HOSTILE}
)


def profile(name: str) -> Switches:
    """The switches of a profile. Raises `UnknownSwitch` when there is no such profile."""
    for known, switches in PROFILES.items():
        if known == name:
            return switches
    raise UnknownSwitch(f"There is no profile named {name!r}. Known: {', '.join(PROFILES)}.")
