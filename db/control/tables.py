"""The tables of the control store. Secrets are ciphertexts of ``db.encryption`` or keyed hashes, never clear."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Column, Enum, Index, MetaData, Text
from sqlmodel import Field, SQLModel

from enable_with_segment.db.types import UtcDateTime


class ControlTable(SQLModel):
    """Base of the control store's tables; they have metadata of their own, apart from the event log's."""

    metadata: ClassVar[MetaData] = MetaData()


def _instant(*, index: bool = False) -> Any:
    return Field(sa_type=UtcDateTime, index=index)


def _optional_instant(*, index: bool = False) -> Any:
    return Field(default=None, sa_type=UtcDateTime, index=index, nullable=True)


class Account(ControlTable, table=True):
    """A customer of the partner, by the partner's own identifier."""

    __tablename__ = "accounts"

    id: str = Field(primary_key=True)
    created_at: datetime = _instant()
    suspended_at: datetime | None = _optional_instant()


class ConnectLink(ControlTable, table=True):
    """A single-use link that starts an install for one account. Only the hash of its token is stored."""

    __tablename__ = "connect_links"

    token_hash: str = Field(primary_key=True)
    account: str = Field(index=True)
    component: str
    return_to: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    reconnects: str | None = None
    created_at: datetime = _instant()
    expires_at: datetime = _instant(index=True)
    used_at: datetime | None = _optional_instant()


class FlowState(ControlTable, table=True):
    """One authorization flow: the hashed ``state``, the browser it belongs to, and how it ended."""

    __tablename__ = "flow_states"

    state_hash: str = Field(primary_key=True)
    cookie_hash: str
    account: str
    component: str
    return_to: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    reconnects: str | None = None
    code_verifier_ciphertext: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    created_at: datetime = _instant()
    expires_at: datetime = _instant(index=True)
    consumed_at: datetime | None = _optional_instant()
    code_hash: str | None = None
    finished_at: datetime | None = _optional_instant()
    install_id: str | None = None
    failure: str | None = None


class InstallStatus(StrEnum):
    """Where an install stands, in the order a customer lives through it."""

    PROVISIONING = "provisioning"
    AWAITING_CONFIRMATION = "awaiting_confirmation"
    CONNECTED = "connected"
    RECEIVING = "receiving"
    FAILED = "failed"
    NEEDS_RECONNECT = "needs_reconnect"
    DISCONNECTING = "disconnecting"
    DISCONNECTED = "disconnected"

    @property
    def over(self) -> bool:
        """Whether the connection has ended or is about to: nothing sets it up or repairs it any more."""
        return self in {InstallStatus.DISCONNECTING, InstallStatus.DISCONNECTED}


class Install(ControlTable, table=True):
    """An App authorized on a workspace, tied to one account (contract 2.9)."""

    __tablename__ = "installs"
    __table_args__ = (Index("ix_installs_account_component", "account", "component"),)

    id: str = Field(primary_key=True)
    account: str
    component: str
    install_name: str = Field(unique=True)
    app_name: str | None = None
    workspace_name: str
    source_name: str | None = None
    scope: str
    status: InstallStatus = Field(
        sa_column=Column(
            Enum(
                InstallStatus,
                native_enum=False,
                length=32,
                values_callable=lambda kind: [m.value for m in kind],
            ),
            nullable=False,
            index=True,
        )
    )
    status_reason: str | None = None
    status_detail: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    connected_by: str | None = None
    created_at: datetime = _instant()
    updated_at: datetime = _instant()
    last_event_at: datetime | None = _optional_instant()
    disconnected_at: datetime | None = _optional_instant()
    connection_state: str | None = None
    connection_reason: str | None = None
    check_due_at: datetime | None = _optional_instant(index=True)


class InstallToken(ControlTable, table=True):
    """The newest access token of an install, and who may replace it; an older one is dead (contract 2.7).

    ``generation`` counts the tokens. ``lease_id`` names the one attempt to refresh that may store its result. The
    ciphertext is empty once access was given up; the row stays, so that a late answer finds its generation passed.
    ``refused_since`` is when Segment began to refuse, ``refusal`` the reason it has given ever since, and
    ``refusal_text`` its newest words. They are empty while it does not refuse.
    """

    __tablename__ = "install_tokens"

    install_id: str = Field(primary_key=True, foreign_key="installs.id")
    access_token_ciphertext: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    expires_at: datetime = _instant()
    refreshed_at: datetime = _instant()
    generation: int = 1
    health: str = Field(default="ok", sa_column_kwargs={"server_default": "ok"})
    failures: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    retry_at: datetime | None = _optional_instant()
    lease_id: str | None = None
    leased_until: datetime | None = _optional_instant()
    refused_since: datetime | None = _optional_instant()
    refusal: str | None = None
    refusal_text: str | None = None


class ApiKey(ControlTable, table=True):
    """A key the partner issued and Segment replays on every delivery: a keyed hash, and encrypted once.

    The ciphertext is erased once Segment holds another key, or the key is revoked: the hash is enough to recognise it.
    A key with a signing secret belongs to a signed Webhooks destination (contract 5.12).
    """

    __tablename__ = "api_keys"
    __table_args__ = (Index("ix_api_keys_account_component", "account", "component"),)

    id: str = Field(primary_key=True)
    key_hash: str = Field(unique=True)
    key_ciphertext: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    signing_secret_ciphertext: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    last_four: str
    account: str
    component: str
    install_id: str | None = Field(default=None, index=True)
    created_at: datetime = _instant()
    expires_at: datetime | None = _optional_instant()
    revoked_at: datetime | None = _optional_instant()


class Destination(ControlTable, table=True):
    """The destination of one install: what we want it to be, and what Segment last said it is."""

    __tablename__ = "destinations"

    install_id: str = Field(primary_key=True, foreign_key="installs.id")
    name: str
    api_key_id: str
    desired: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    seen: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    seen_at: datetime | None = _optional_instant()
    verified_at: datetime | None = _optional_instant()


class OutboxEntry(ControlTable, table=True):
    """Work that must happen after a commit: written in the same transaction, done later, never lost."""

    __tablename__ = "outbox"

    id: str = Field(primary_key=True)
    kind: str
    install_id: str = Field(index=True)
    payload: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    attempts: int = 0
    created_at: datetime = _instant()
    available_at: datetime = _instant(index=True)
    lease_owner: str | None = None
    leased_until: datetime | None = _optional_instant()
    finished_at: datetime | None = _optional_instant(index=True)
    last_error: str | None = None


class AuditEntry(ControlTable, table=True):
    """One act that somebody may ask about later: never changed or deleted (a trigger sees to it), no personal data."""

    __tablename__ = "audit"

    id: str = Field(primary_key=True)
    at: datetime = _instant(index=True)
    actor: str
    action: str
    subject: str
    reason: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


class ServiceSecret(ControlTable, table=True):
    """Secrets the service makes for itself once (the look-up key of API keys), encrypted; also the boot canary."""

    __tablename__ = "service_secrets"

    name: str = Field(primary_key=True)
    value_ciphertext: str = Field(sa_column=Column(Text, nullable=False))
    created_at: datetime = _instant()


class ApiToken(ControlTable, table=True):
    """What a partner's backend authenticates with at our HTTP API. Only the hash of the token is stored."""

    __tablename__ = "api_tokens"

    id: str = Field(primary_key=True)
    token_hash: str = Field(unique=True)
    name: str
    scopes: list[str] = Field(sa_column=Column(JSON, nullable=False))
    created_at: datetime = _instant()
    expires_at: datetime | None = _optional_instant()
    revoked_at: datetime | None = _optional_instant()


class OperatorLogin(ControlTable, table=True):
    """One login of an operator that is on its way to the identity provider and back."""

    __tablename__ = "operator_logins"

    state_hash: str = Field(primary_key=True)
    cookie_hash: str
    return_to: str
    created_at: datetime = _instant()
    expires_at: datetime = _instant(index=True)
    consumed_at: datetime | None = _optional_instant()


class OperatorLink(ControlTable, table=True):
    """A single-use link that signs an operator in where there is no identity provider. Only its hash is stored."""

    __tablename__ = "operator_links"

    token_hash: str = Field(primary_key=True)
    created_at: datetime = _instant()
    expires_at: datetime = _instant()
    used_at: datetime | None = _optional_instant()


class OperatorSession(ControlTable, table=True):
    """Somebody signed in to the dashboard. Only the hash of the cookie is stored."""

    __tablename__ = "operator_sessions"

    token_hash: str = Field(primary_key=True)
    operator: str
    role: str
    granted_by: str
    created_at: datetime = _instant()
    last_seen_at: datetime = _instant()
    expires_at: datetime = _instant(index=True)
    ended_at: datetime | None = _optional_instant()


class EmergencyStop(ControlTable, table=True):
    """At most one row: the service is stopped while it is there."""

    __tablename__ = "emergency_stop"

    name: str = Field(primary_key=True)
    actor: str
    reason: str
    engaged_at: datetime = _instant()


class Pause(ControlTable, table=True):
    """A component, or one of its handlers, that gets no events while the row is there."""

    __tablename__ = "pauses"

    component: str = Field(primary_key=True)
    handler: str = Field(primary_key=True)
    """Its key or its function's name; empty for the whole component."""
    actor: str
    paused_at: datetime = _instant()


class RunningProcess(ControlTable, table=True):
    """A process of the service, for as long as it says that it runs."""

    __tablename__ = "running_processes"

    id: str = Field(primary_key=True)
    role: str
    key_ids: list[str] = Field(sa_column=Column(JSON, nullable=False))
    """The encryption keys it knows, the encrypting one first: their ids, never the keys."""
    started_at: datetime = _instant()
    seen_at: datetime = _instant()

    @property
    def name(self) -> str:
        """Its role, host and pid, for people."""
        return f"{self.role} {self.id.rpartition(':')[0]}"


class Replay(ControlTable, table=True):
    """One replay of stored events, and how far it has come."""

    __tablename__ = "replays"

    id: str = Field(primary_key=True)
    wanted: str = Field(sa_column=Column(Text, nullable=False))
    """Which events, as JSON."""
    handler: str | None = None
    rate: int
    """Events per second."""
    last_event_id: int = Field(sa_type=BigInteger)
    """The newest event there was at the start: what came later is not replayed."""
    cursor: int = Field(sa_type=BigInteger)
    """The last event that was looked at."""
    total: int
    revived: int
    actor: str
    started_at: datetime = _instant()
    updated_at: datetime = _instant()
    finished_at: datetime | None = _optional_instant()
