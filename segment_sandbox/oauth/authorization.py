"""The authorization server's decisions: which authorize requests are good, and how refusals are worded.

The order of the checks and the empty `state` on their errors follow contract 2.3 and 2.4.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from enable_with_segment.segment_sandbox.switches import Switches
from enable_with_segment.segment_sandbox.world import App

CHALLENGE_LIFETIME = timedelta(minutes=10)
CODE_LIFETIME = timedelta(minutes=10)
SHORTEST_STATE = 8
_PKCE_VALUE = re.compile(r"[A-Za-z0-9\-._~]{43,128}")

DESCRIPTIONS: Mapping[str, str] = {
    "invalid_request": "The request is missing a required parameter or is otherwise malformed",
    "unauthorized_client": "The client may not use this way to obtain a code",
    "access_denied": "The resource owner or the authorization server denied the request",
    "unsupported_response_type": "This response type is not supported",
    "invalid_scope": "The requested scope is unknown, malformed or not allowed for this client",
    "invalid_state": "The state is missing or has too few characters",
    "server_error": "The authorization server met an unexpected condition",
    "invalid_client": "Client authentication failed",
    "invalid_grant": "The authorization code is unknown, expired, used before or not meant for this client",
    "unsupported_grant_type": "This grant type is not supported",
}


@dataclass(frozen=True, slots=True)
class AuthorizeRequest:
    """An authorize request that passed every check."""

    client_id: str
    redirect_uri: str
    redirect_uri_given: bool
    scope: str
    state: str
    code_challenge: str = ""
    code_challenge_method: str = ""


@dataclass(frozen=True, slots=True)
class PageError:
    """A refusal that the user sees at Segment, because there is nowhere safe to redirect to."""

    error: str
    hint: str


@dataclass(frozen=True, slots=True)
class RedirectedError:
    """A refusal that goes back to the partner in the callback's query."""

    redirect_uri: str
    error: str
    hint: str = ""
    state: str = ""
    description: str = ""

    @property
    def location(self) -> str:
        parameters = {
            "error": self.error,
            "error_description": self.description or DESCRIPTIONS.get(self.error, ""),
            "error_hint": self.hint,
            "state": self.state,
        }
        return with_query(
            self.redirect_uri,
            {key: value for key, value in parameters.items() if value or key != "error_hint"},
        )


@dataclass(slots=True)
class ConsentChallenge:
    """A consent that one user is being asked for. Single use."""

    request: AuthorizeRequest
    user: str
    expires_at: datetime


@dataclass(slots=True)
class AuthorizationCode:
    """A code that was handed out. It stays known after its use, so that a second use is noticed."""

    request: AuthorizeRequest
    user: str
    workspace: str
    source: str | None
    expires_at: datetime
    used: bool = False


def check_authorize(
    query: str, apps: Mapping[str, App], switches: Switches
) -> AuthorizeRequest | PageError | RedirectedError:
    """Judge an authorize request's query: client, redirect URI, scope, response type, state, in this order."""
    pairs = parse_qsl(query, keep_blank_values=True)
    given = dict(reversed(pairs))
    app = apps.get(given.get("client_id", ""))
    if app is None:
        return PageError("invalid_client", "No App with this client_id is registered.")
    redirect_uri = _registered_redirect_uri(given.get("redirect_uri"), app.seed.redirect_uris)
    if redirect_uri is None:
        return PageError("invalid_request", "The redirect_uri is not one of those registered for this App.")
    state = given.get("state", "")
    problem = _first_problem(pairs, given, app.seed.scope, switches)
    if problem is not None:
        shown_state = state if switches.state_on_validation_error == "echo" else ""
        return RedirectedError(redirect_uri, *problem, state=shown_state)
    pkce = switches.pkce == "verified"
    return AuthorizeRequest(
        client_id=app.seed.client_id,
        redirect_uri=redirect_uri,
        redirect_uri_given="redirect_uri" in given,
        scope=app.seed.scope,
        state=state,
        code_challenge=given.get("code_challenge", "") if pkce else "",
        code_challenge_method=given.get("code_challenge_method", "") if pkce else "",
    )


def _first_problem(
    pairs: Sequence[tuple[str, str]], given: Mapping[str, str], scope: str, switches: Switches
) -> tuple[str, str] | None:
    """The error and hint of the first check that fails, once it is clear where to redirect to."""
    keys = [key for key, _ in pairs]
    if repeated := sorted({key for key in keys if keys.count(key) > 1}):
        return "invalid_request", f"Given more than once: {', '.join(repeated)}."
    if given.get("scope") != scope:
        return "invalid_scope", f"The App is not registered for the scope {given.get('scope', '')!r}."
    if given.get("response_type") != "code":
        return "unsupported_response_type", "The only response_type is code."
    if switches.short_state == "invalid_state" and len(given.get("state", "")) < SHORTEST_STATE:
        return "invalid_state", f"The state needs at least {SHORTEST_STATE} characters."
    challenge, method = given.get("code_challenge", ""), given.get("code_challenge_method", "")
    if switches.pkce == "verified" and challenge and not (method == "S256" and _PKCE_VALUE.fullmatch(challenge)):
        return "invalid_request", "The code_challenge must use S256 and 43 to 128 unreserved characters."
    return None


def _registered_redirect_uri(given: str | None, registered: Sequence[str]) -> str | None:
    if given is None:
        return registered[0] if len(registered) == 1 else None
    return given if given in registered else None


def callback_location(request: AuthorizeRequest, code: str) -> str:
    """The successful callback: code, then scope, then state (contract 2.4)."""
    return with_query(request.redirect_uri, {"code": code, "scope": request.scope, "state": request.state})


def with_query(uri: str, parameters: Mapping[str, str]) -> str:
    """Add parameters to a URI and keep the query it has."""
    parts = urlsplit(uri)
    query = "&".join(part for part in (parts.query, urlencode(parameters)) if part)
    return urlunsplit(parts._replace(query=query))


def verifier_matches(request: AuthorizeRequest, verifier: str) -> bool:
    """Whether this is the verifier behind the request's S256 challenge (RFC 7636 section 4.6)."""
    digest = hashlib.sha256(verifier.encode()).digest()
    expected = base64.urlsafe_b64encode(digest).rstrip(b"=")
    return hmac.compare_digest(expected, request.code_challenge.encode())
