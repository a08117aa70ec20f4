"""The browser's and the partner's way to the identity service: authorize, login, consent, token."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from enable_with_segment.segment_sandbox.console.pages import message, page
from enable_with_segment.segment_sandbox.oauth.authorization import (
    AuthorizeRequest,
    ConsentChallenge,
    PageError,
    check_authorize,
)
from enable_with_segment.segment_sandbox.oauth.identity import (
    ConsentRefused,
    Decision,
    Identity,
    TokenError,
    oauth_error,
)
from enable_with_segment.segment_sandbox.state import State

SESSION_COOKIE = "segment_sandbox_session"
FORM = "application/x-www-form-urlencoded"


class IdentityRoutes:
    """Handlers for id.segmentapis.com and for the two browser pages of app.segment.com."""

    def __init__(self, state: State, identity: Identity) -> None:
        self._state = state
        self._identity = identity

    def routes(self) -> list[Route]:
        return [
            Route("/oauth2/auth", self.authorize, methods=["GET"]),
            Route("/oauth2/token", self.token, methods=["POST"]),
            Route("/login", self.login_page, methods=["GET"]),
            Route("/login", self.login, methods=["POST"]),
            Route("/logout", self.logout, methods=["GET", "POST"]),
            Route("/authorize", self.consent_page, methods=["GET"]),
            Route("/authorize", self.consent, methods=["POST"]),
        ]

    async def authorize(self, request: Request) -> Response:
        """Check the request, then send the browser to login, to consent, or back to the partner."""
        identity, state = self._identity, self._state
        if verifier := request.query_params.get("consent_verifier"):
            location = identity.finish(verifier)
            if location is None:
                return message("Nothing to finish", "This request has been answered already.")
            return RedirectResponse(location, 302)
        checked = check_authorize(request.url.query, state.world.apps, state.switches)
        if isinstance(checked, PageError):
            return message("This request cannot be authorized", checked.hint, checked.error)
        if not isinstance(checked, AuthorizeRequest):
            return RedirectResponse(checked.location, 302)
        user = self._user(request)
        if user is None:
            login_challenge = state.identifiers.hex32()
            identity.logins[login_challenge] = request.url.query
            return _go("/login", login_challenge=login_challenge)
        return _go("/authorize", consent_challenge=identity.ask_for_consent(checked, user))

    async def login_page(self, request: Request) -> Response:
        """A button for each user."""
        return page(
            "login.html",
            users=list(self._state.world.users.values()),
            login_challenge=request.query_params.get("login_challenge", ""),
        )

    async def login(self, request: Request) -> Response:
        """Log in, and go on with the authorize request that asked for it."""
        identity, form = self._identity, await _form(request)
        try:
            session = identity.log_in(form.get("user", ""))
        except KeyError:
            return message("Unknown user", "The sandbox has no such user.")
        query = identity.logins.pop(form.get("login_challenge", ""), None)
        response = RedirectResponse(f"/oauth2/auth?{query}" if query is not None else "/", 302)
        response.set_cookie(SESSION_COOKIE, session, httponly=True, samesite="lax")
        return response

    async def logout(self, request: Request) -> Response:
        """End the session. From a consent page this leads to logging in as somebody else."""
        identity, form = self._identity, await _form(request)
        identity.sessions.pop(request.cookies.get(SESSION_COOKIE, ""), None)
        consent = identity.challenges.pop(form.get("consent_challenge", ""), None)
        if consent is None:
            response = _go("/login")
        else:
            login_challenge = self._state.identifiers.hex32()
            identity.logins[login_challenge] = _authorize_query(consent.request)
            response = _go("/login", login_challenge=login_challenge)
        response.delete_cookie(SESSION_COOKIE)
        return response

    async def consent_page(self, request: Request) -> Response:
        """Ask which workspace and source, and whether to allow it."""
        return self._consent_form(request, request.query_params.get("consent_challenge", ""))

    async def consent(self, request: Request) -> Response:
        """Take the answer and send the browser back through the authorization endpoint."""
        form = await _form(request)
        challenge, user = form.get("consent_challenge", ""), self._user(request) or ""
        decision = Decision(
            answer="deny" if form.get("decision") == "deny" else "allow",
            workspace=form.get("workspace", ""),
            source=form.get("source", ""),
        )
        consent = self._identity.open_challenge(challenge, user)
        try:
            verifier = self._identity.decide(challenge, user, decision)
        except ConsentRefused as refusal:
            return self._consent_form(request, challenge, decision, str(refusal))
        query = _authorize_query(consent.request) if consent else ""
        return RedirectResponse(f"/oauth2/auth?{query}&consent_verifier={verifier}", 302)

    def _consent_form(
        self, request: Request, challenge: str, chosen: Decision | None = None, problem: str = ""
    ) -> Response:
        state, email = self._state, self._user(request)
        consent: ConsentChallenge | None = self._identity.open_challenge(challenge, email or "")
        if email is None or consent is None:
            return message(
                "This page is no longer valid",
                "It was answered already, is older than ten minutes, or belongs to another user.",
            )
        return page(
            "consent.html",
            status=400 if problem else 200,
            app=state.world.apps[consent.request.client_id],
            user=state.world.users[email],
            challenge=challenge,
            workspaces=[(owned, state.world.sources_of(owned.name)) for owned in state.world.owned_workspaces(email)],
            chosen=chosen or Decision("allow"),
            problem=problem,
            show_deny=state.switches.consent_deny != "none",
        )

    async def token(self, request: Request) -> Response:
        """The code exchange."""
        headers = {"Cache-Control": "no-store", "Pragma": "no-cache"}
        try:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
                raise oauth_error("invalid_request", f"The Content-Type must be {FORM}.")
            authorization = request.headers.get("authorization")
            body, status = self._identity.exchange(authorization, await _form(request)), 200
        except TokenError as error:
            body, status = error.body, error.status
        return JSONResponse(body, status, headers, media_type="application/json;charset=UTF-8")

    def _user(self, request: Request) -> str | None:
        return self._identity.sessions.get(request.cookies.get(SESSION_COOKIE, ""))


def _go(path: str, **query: str) -> RedirectResponse:
    return RedirectResponse(f"{path}?{urlencode(query)}" if query else path, 302)


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode(errors="replace"), keep_blank_values=True))


def _authorize_query(request: AuthorizeRequest) -> str:
    parameters = {
        "response_type": "code",
        "client_id": request.client_id,
        "redirect_uri": request.redirect_uri,
        "scope": request.scope,
        "state": request.state,
        "code_challenge": request.code_challenge,
        "code_challenge_method": request.code_challenge_method,
    }
    return urlencode({key: value for key, value in parameters.items() if value or key == "state"})
