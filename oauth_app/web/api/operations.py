"""The operations of the API as a table: the router and ``/api/openapi.json`` are both made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from enable_with_segment.oauth_app.operators.api_tokens import Caller, Scope
from enable_with_segment.oauth_app.web.api import endpoints, shapes
from enable_with_segment.oauth_app.web.services import Services

Handle: TypeAlias = Callable[[Services, Caller, Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in the query; those of the path are read from the path."""

    name: str
    description: str
    kind: str = "string"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        refusals: statuses that it may answer beside those that every operation may.
    """

    method: str
    path: str
    summary: str
    scope: Scope
    handle: Handle
    status: int
    answer: type[shapes.Shape] | None
    body: type[shapes.Shape] | None = None
    query: tuple[Parameter, ...] = ()
    refusals: tuple[int, ...] = ()

    @property
    def route_path(self) -> str:
        """The path for the router: a messageId may hold a slash."""
        return self.path.replace("{message_id}", "{message_id:path}")


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "POST",
        "/api/v1/connect-links",
        "Make a single-use link that connects a customer's workspace to an account",
        Scope.CONNECT_LINKS_WRITE,
        endpoints.create_connect_link,
        201,
        shapes.ConnectLinkAnswer,
        body=shapes.ConnectLinkRequest,
        refusals=(400, 408, 409, 413, 415),
    ),
    Operation(
        "GET",
        "/api/v1/installs",
        "List installs, the newest first",
        Scope.INSTALLS_READ,
        endpoints.list_installs,
        200,
        shapes.InstallsAnswer,
        query=(
            Parameter("account", "Only installs of this account."),
            Parameter("limit", "How many at most, 1 to 500; 100 if left out.", "integer"),
            Parameter("before", "The `next` of the page before."),
        ),
        refusals=(400,),
    ),
    Operation(
        "GET",
        "/api/v1/installs/{install_id}",
        "Show one install",
        Scope.INSTALLS_READ,
        endpoints.show_install,
        200,
        shapes.InstallAnswer,
        refusals=(404,),
    ),
    Operation(
        "GET",
        "/api/v1/events/{message_id}",
        "Tell whether an event was received, and what became of it",
        Scope.EVENTS_READ,
        endpoints.show_event,
        200,
        shapes.ReceiptAnswer,
        refusals=(404,),
    ),
    Operation(
        "POST",
        "/api/v1/api-keys",
        "Make an API key that a customer pastes into Segment",
        Scope.API_KEYS_WRITE,
        endpoints.create_api_key,
        201,
        shapes.ApiKeyAnswer,
        body=shapes.ApiKeyRequest,
        refusals=(400, 408, 413, 415),
    ),
    Operation(
        "DELETE",
        "/api/v1/api-keys/{key_id}",
        "Revoke an API key at once",
        Scope.API_KEYS_WRITE,
        endpoints.revoke_api_key,
        204,
        None,
        refusals=(404,),
    ),
)
