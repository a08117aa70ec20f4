"""The shapes of the API's requests and answers. ``/api/openapi.json`` is made from them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool
from pydantic_core import PydanticCustomError

from enable_with_segment.db.control.tables import Install
from enable_with_segment.db.event_log.records import EventDetail
from enable_with_segment.db.identifiers import AccountInvalid, check_account
from enable_with_segment.subscriptions.archive.receipts import receipt_of

ACCOUNT_INVALID = "account_invalid"


def _check_account(value: object) -> str:
    try:
        return check_account(value)
    except AccountInvalid as problem:
        raise PydanticCustomError(ACCOUNT_INVALID, "{text}", {"text": str(problem)}) from None


AccountName = Annotated[
    str,
    Field(min_length=1, max_length=200, description="Your own identifier of the customer's account."),
    BeforeValidator(_check_account),
]


class Shape(BaseModel):
    """Base of all shapes: no unknown fields."""

    model_config = ConfigDict(extra="forbid")


class Problem(Shape):
    """Why a request was refused."""

    code: str = Field(description="One word for programs.")
    message: str = Field(description="A sentence for people.")


class ConnectLinkRequest(Shape):
    """Whom to make a connect link for."""

    account: AccountName
    return_to: str | None = Field(
        default=None,
        max_length=2000,
        description="Where the finished page leads back to: a path of this service, or an origin of RETURN_ORIGINS.",
    )
    settings: dict[str, Any] = Field(
        default_factory=dict,
        max_length=50,
        description="Values for the custom settings that your Subscription declares; others are refused.",
    )
    reconnects: str | None = Field(
        default=None,
        max_length=64,
        description="An install of this account, to be connected anew on the same workspace and source only.",
    )


class ConnectLinkAnswer(Shape):
    """A single-use connect link."""

    url: str
    account: str
    expires_at: datetime


class ApiKeyRequest(Shape):
    """Whom to make an API key for."""

    account: AccountName
    signed: StrictBool = Field(default=False, description="For a Webhooks destination, which signs what it sends.")


class ApiKeyAnswer(Shape):
    """A new API key for pasting into Segment. It is shown only in this answer.

    For a Webhooks destination, `url` and `signing_secret` are what the customer pastes.
    """

    id: str
    api_key: str
    account: str
    component: str
    url: str | None = None
    signing_secret: str | None = None


class InstallAnswer(Shape):
    """A connected workspace."""

    id: str
    account: str
    component: str
    workspace: str
    source: str | None
    status: str
    reason: str | None
    detail: str | None
    connection_state: str | None
    connection_reason: str | None
    created_at: datetime
    updated_at: datetime
    last_event_at: datetime | None

    @classmethod
    def of(cls, install: Install) -> InstallAnswer:
        """Describe a stored install."""
        return cls(
            id=install.id,
            account=install.account,
            component=install.component,
            workspace=install.workspace_name,
            source=install.source_name,
            status=install.status.value,
            reason=install.status_reason,
            detail=install.status_detail,
            connection_state=install.connection_state,
            connection_reason=install.connection_reason,
            created_at=install.created_at,
            updated_at=install.updated_at,
            last_event_at=install.last_event_at,
        )


class InstallsAnswer(Shape):
    """A page of installs, the newest first. ``next`` is the value of ``before`` for the page after it."""

    installs: list[InstallAnswer]
    next: str | None


class HandlerReceipt(Shape):
    """What one handler made of an event."""

    handler: str
    state: str
    attempts: int
    at: datetime
    after_seconds: float
    error: str | None


class EventReceipt(Shape):
    """What became of an event for one install or key. It holds nothing of the event's content but its name."""

    account: str
    component: str
    install: str | None
    type: str
    event: str | None
    received_at: datetime
    state: str
    attempts: int
    finished_at: datetime | None
    handled_after_seconds: float | None
    next_attempt_at: datetime | None
    last_error: str | None
    duplicates: int
    differing_duplicates: int
    handlers: list[HandlerReceipt]

    @classmethod
    def of(cls, detail: EventDetail) -> EventReceipt:
        """Describe a stored event."""
        receipt = receipt_of(detail)
        return cls(
            account=receipt.account,
            component=receipt.component,
            install=receipt.install_id,
            type=receipt.type,
            event=receipt.event,
            received_at=receipt.received_at,
            state=receipt.state.value,
            attempts=receipt.attempts,
            finished_at=receipt.finished_at,
            handled_after_seconds=None if receipt.handled_after is None else receipt.handled_after.total_seconds(),
            next_attempt_at=receipt.next_attempt_at,
            last_error=receipt.last_error,
            duplicates=receipt.duplicates,
            differing_duplicates=receipt.differing_duplicates,
            handlers=[
                HandlerReceipt(
                    handler=h.handler,
                    state=h.state.value,
                    attempts=h.attempts,
                    at=h.at,
                    after_seconds=h.after.total_seconds(),
                    error=h.error,
                )
                for h in receipt.handlers
            ],
        )


class ReceiptAnswer(Shape):
    """Everything that was received under one messageId."""

    message_id: str
    events: list[EventReceipt]
