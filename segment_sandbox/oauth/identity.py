"""Segment's identity service without HTTP: sessions, consent, codes, install tokens and their refresh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from enable_with_segment.segment_sandbox.oauth import credentials
from enable_with_segment.segment_sandbox.oauth.authorization import (
    CHALLENGE_LIFETIME,
    CODE_LIFETIME,
    DESCRIPTIONS,
    AuthorizationCode,
    AuthorizeRequest,
    ConsentChallenge,
    RedirectedError,
    callback_location,
    verifier_matches,
)
from enable_with_segment.segment_sandbox.state import State
from enable_with_segment.segment_sandbox.world import App, Install, Token

INSTALL_EXISTS = "install already exists"


class ConsentRefused(ValueError):
    """The consent form cannot be accepted as it was sent; the message is for the user."""


class TokenError(Exception):
    """A refusal of the token or refresh endpoint: its status and its JSON body."""

    def __init__(self, status: int, body: Mapping[str, object]) -> None:
        super().__init__(body.get("error"))
        self.status = status
        self.body = dict(body)


def oauth_error(error: str, hint: str = "", status: int = 400) -> TokenError:
    """A refusal in the form of contract 2.5."""
    body: dict[str, object] = {"error": error, "error_description": DESCRIPTIONS[error], "status_code": status}
    if hint:
        body["error_hint"] = hint
    return TokenError(status, body)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a user sent from the consent page."""

    answer: Literal["allow", "deny"]
    workspace: str = ""
    source: str = ""


class Identity:
    """Who is logged in, which consents are open, and which codes were issued."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.reset()

    def reset(self) -> None:
        """End every session, and forget consents and codes."""
        self.sessions: dict[str, str] = {}
        self.logins: dict[str, str] = {}
        self.challenges: dict[str, ConsentChallenge] = {}
        self.verifiers: dict[str, str] = {}
        self.codes: dict[str, AuthorizationCode] = {}

    def log_in(self, email: str) -> str:
        """Start a session and return its id. Raises `KeyError` for an unknown user."""
        self.sessions[session := self._state.identifiers.hex32()] = self._state.world.users[email].email
        return session

    def ask_for_consent(self, request: AuthorizeRequest, user: str) -> str:
        """Open a consent challenge: 32 hex digits, single use, ten minutes."""
        challenge = self._state.identifiers.hex32()
        self.challenges[challenge] = ConsentChallenge(request, user, self._state.now() + CHALLENGE_LIFETIME)
        return challenge

    def open_challenge(self, challenge: str, user: str) -> ConsentChallenge | None:
        """The challenge, if it is this user's, unused and in time."""
        found = self.challenges.get(challenge)
        if found is None or found.user != user or found.expires_at <= self._state.now():
            return None
        return found

    def decide(self, challenge: str, user: str, decision: Decision) -> str:
        """Use up a challenge and return a verifier that `finish` exchanges for the callback's URL, once.

        Raises `ConsentRefused`; the challenge stays open when only the choice was wrong.
        """
        consent = self.open_challenge(challenge, user)
        if consent is None:
            raise ConsentRefused("This request has been answered already, or is older than ten minutes.")
        if decision.answer == "deny":
            location = self._denied(consent.request).location
        else:
            location = self._allowed(consent, decision)
        del self.challenges[challenge]
        self.verifiers[verifier := self._state.identifiers.hex32()] = location
        return verifier

    def finish(self, verifier: str) -> str | None:
        """The callback URL behind a consent verifier; None when it is unknown or was used."""
        return self.verifiers.pop(verifier, None)

    def _denied(self, request: AuthorizeRequest) -> RedirectedError:
        if self._state.switches.consent_deny == "custom_error_with_html":
            return RedirectedError(
                request.redirect_uri,
                "consent_rejected<b>",
                "<script>document.title='hint'</script>",
                request.state,
                "<img src=x onerror=\"document.title='description'\"> The user said no & left",
            )
        return RedirectedError(
            request.redirect_uri, "access_denied", "The user did not allow the request.", request.state
        )

    def _allowed(self, consent: ConsentChallenge, decision: Decision) -> str:
        state, request = self._state, consent.request
        app = state.world.apps[request.client_id]
        workspace, source = self._chosen(app, consent.user, decision)
        if state.world.install_of(request.client_id, workspace):
            if state.switches.install_exists == "page":
                raise ConsentRefused(f"{app.seed.display_name}: {INSTALL_EXISTS} in this workspace.")
            if state.switches.install_exists == "callback":
                return RedirectedError(
                    request.redirect_uri,
                    "install_already_exists",
                    f"The App is installed on {workspace}.",
                    request.state,
                    INSTALL_EXISTS,
                ).location
        elif state.switches.install_created_at == "consent":
            state.world.add_install(app, workspace, source, consent.user, state.now())
        code = state.identifiers.dotted()
        self.codes[code] = AuthorizationCode(request, consent.user, workspace, source, state.now() + CODE_LIFETIME)
        return callback_location(request, code)

    def _chosen(self, app: App, user: str, decision: Decision) -> tuple[str, str | None]:
        world = self._state.world
        source = world.sources.get(decision.source)
        workspace = decision.workspace or (source.workspace if source else "")
        if workspace not in {owned.name for owned in world.owned_workspaces(user)}:
            raise ConsentRefused("Choose a workspace that you own. Only a Workspace Owner may allow this.")
        if app.destination_slug is None:
            return workspace, None
        if source is None or source.workspace != workspace:
            raise ConsentRefused("Choose a source that belongs to the workspace you chose.")
        return workspace, source.name

    def exchange(self, authorization: str | None, form: Mapping[str, str]) -> dict[str, object]:
        """Exchange a code for the install's first token (contract 2.5). Raises `TokenError`."""
        state = self._state
        app = self._authenticated_client(authorization, form)
        grant_type = form.get("grant_type")
        if not grant_type:
            raise oauth_error("invalid_request", "The grant_type is missing.")
        if grant_type != "authorization_code":
            raise oauth_error(state.switches.unknown_grant_type, "The only grant_type is authorization_code.")
        text = form.get("code")
        if not text:
            raise oauth_error("invalid_request", "The code is missing.")
        code = self._redeemable(text, app, form)
        existing = state.world.install_of(app.seed.client_id, code.workspace)
        made_at_consent = state.switches.install_created_at == "consent"
        if existing and not made_at_consent:
            raise _install_exists(state.switches.install_exists)
        install = existing or state.world.add_install(app, code.workspace, code.source, code.user, state.now())
        code.used = True
        token = state.world.issue_token(install, state.identifiers.dotted(), state.now(), text)
        body = self._token_body(token, app.name, install.name, expires_in=3599)
        if install.source is not None:
            body["source_names"] = self._source_names(install)
        return body

    def _redeemable(self, text: str, app: App, form: Mapping[str, str]) -> AuthorizationCode:
        state = self._state
        code = self.codes.get(text)
        if code is None or code.expires_at <= state.now():
            raise oauth_error("invalid_grant", "The code is unknown or has expired.")
        if code.request.client_id != app.seed.client_id:
            raise oauth_error("invalid_request", "The code was issued to another client.")
        if code.used:
            state.world.revoke_tokens_of_code(text)
            raise oauth_error("invalid_grant", "The code was used before; its token has been revoked.")
        if (form.get("redirect_uri") or code.request.redirect_uri_given) and (
            form.get("redirect_uri") != code.request.redirect_uri
        ):
            raise oauth_error("invalid_request", "The redirect_uri is not the one of the authorize request.")
        if code.request.code_challenge and not verifier_matches(code.request, form.get("code_verifier", "")):
            raise oauth_error("invalid_grant", "The code_verifier does not match the code_challenge.")
        return code

    def _authenticated_client(self, authorization: str | None, form: Mapping[str, str]) -> App:
        pair = credentials.basic_pair(authorization)
        if pair is None:
            if authorization or form.get("client_id") or form.get("client_secret"):
                raise oauth_error("invalid_client", "This client authenticates with HTTP Basic only.", 401)
            raise oauth_error("invalid_request", "The client's credentials are missing.")
        client_id, secret = credentials.url_decoded(pair)
        app = self._state.world.apps.get(client_id)
        if app is None or not credentials.same(app.seed.client_secret, secret):
            raise oauth_error("invalid_client", "The client is unknown or its secret is wrong.", 401)
        return app

    def refresh(self, install_name: str, authorization: str | None) -> dict[str, object]:
        """Give an install a new token and end the previous one (contract 2.7). Raises `TokenError`."""
        state = self._state
        app = self._client_raw_or_encoded(credentials.basic_pair(authorization))
        install = state.world.installs.get(install_name)
        if app is None:
            raise TokenError(401, {"error": "invalid client credentials", "code": 16})
        if install is None or install.client_id != app.seed.client_id:
            raise TokenError(404, {"error": "install not found", "code": 5})
        opaque = state.switches.refreshed_as == "long_opaque"
        value = state.identifiers.alphanumeric(1000) if opaque else state.identifiers.uuid()
        token = state.world.issue_token(install, value, state.now())
        match state.switches.refresh_names:
            case "as_issued":
                return self._token_body(token, app.name, install.name, expires_in=3600)
            case "singular_install":
                singular = f"install/{install.name.partition('/')[2]}"
                return self._token_body(token, f"apps/{app.seed.slug}", singular, expires_in=3600)
            case "missing_optional_fields":
                return {"access_token": token.value, "token_type": "bearer"}

    def _client_raw_or_encoded(self, pair: tuple[str, str] | None) -> App | None:
        for client_id, secret in (pair, credentials.url_decoded(pair)) if pair else ():
            app = self._state.world.apps.get(client_id)
            if app is not None and credentials.same(app.seed.client_secret, secret):
                return app
        return None

    def _token_body(self, token: Token, app: str, install: str, expires_in: int) -> dict[str, object]:
        bare = self._state.switches.workspace_name_style == "bare"
        return {
            "access_token": token.value,
            "token_type": "bearer",
            "expires_in": expires_in,
            "scope": token.scope,
            "app_name": app,
            "install_name": install,
            "workspace_names": [token.workspace.removeprefix("workspaces/") if bare else token.workspace],
        }

    def _source_names(self, install: Install) -> list[str]:
        names = [install.source] if install.source else []
        if self._state.switches.source_names == "two":
            names += [s.name for s in self._state.world.sources_of(install.workspace) if s.name not in names][:1]
        return names


def _install_exists(place: str) -> TokenError:
    if place == "token_endpoint_400":
        body = {"error": "invalid_request", "error_description": INSTALL_EXISTS, "status_code": 400}
        return TokenError(400, body)
    return TokenError(409, {"error": INSTALL_EXISTS, "code": 6})
