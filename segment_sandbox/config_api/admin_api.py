"""Making access tokens and Apps over the Config API, as it was possible in 2019 (contract 2.2)."""

from __future__ import annotations

from collections.abc import Mapping

from enable_with_segment.segment_sandbox.clock import timestamp
from enable_with_segment.segment_sandbox.config import AppSeed, ConfigError
from enable_with_segment.segment_sandbox.config_api.errors import invalid_argument, permission_denied, unauthenticated
from enable_with_segment.segment_sandbox.oauth import credentials
from enable_with_segment.segment_sandbox.state import State
from enable_with_segment.segment_sandbox.world import Token

SCOPES = frozenset({"workspace", "workspace:read"})


def create_access_token(state: State, authorization: str | None, body: Mapping[str, object]) -> dict[str, object]:
    """A Workspace Owner's own token. Basic auth with the user's e-mail address; any password will do."""
    pair = credentials.basic_pair(authorization)
    if pair is None or pair[0] not in state.world.users:
        raise unauthenticated()
    given = body.get("access_token")
    if not isinstance(given, dict):
        raise invalid_argument("access_token is missing or not an object")
    scope, names = given.get("scopes", "workspace"), given.get("workspace_names")
    if scope not in SCOPES or not isinstance(names, list) or len(names) != 1:
        raise invalid_argument("access_token.scopes or access_token.workspace_names is malformed")
    if names[0] not in {workspace.name for workspace in state.world.owned_workspaces(pair[0])}:
        raise permission_denied()
    token = Token(state.identifiers.dotted(), scope, names[0], None, None)
    state.world.tokens[token.value] = token
    return {
        "name": f"access-tokens/{state.identifiers.number()}",
        "description": given.get("description", ""),
        "scopes": scope,
        "create_time": timestamp(state.now()),
        "token": token.value,
        "workspace_names": names,
    }


def create_app(state: State, token: Token, body: Mapping[str, object]) -> dict[str, object]:
    """Register an App; its client secret is shown this once."""
    if token.scope != "workspace":
        raise permission_denied()
    given = body.get("app")
    if not isinstance(given, dict):
        raise invalid_argument("app is missing or not an object")
    uris, scope, display_name = given.get("redirect_uris"), given.get("scope"), given.get("display_name")
    if not isinstance(uris, list) or not isinstance(scope, str) or not isinstance(display_name, str):
        raise invalid_argument("app needs redirect_uris, scope and display_name")
    if not all(isinstance(uri, str) for uri in uris):
        raise invalid_argument("app.redirect_uris is not an array of strings")
    client_secret = state.identifiers.alphanumeric(12)
    try:
        seed = AppSeed(
            client_id=state.identifiers.uuid(),
            client_secret=client_secret,
            redirect_uris=tuple(uris),
            scope=scope,
            slug="-".join(display_name.lower().split()),
            display_name=display_name,
        )
    except ConfigError as error:
        raise invalid_argument(str(error)) from error
    app = state.world.add_app(seed)
    app.profile = {key: value for key, value in given.items() if key not in {"client_id", "client_secret"}}
    return {**app.profile, "name": app.name, "client_id": seed.client_id, "client_secret": client_secret}
