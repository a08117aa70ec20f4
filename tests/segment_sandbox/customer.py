"""A customer and a partner for the sandbox's tests: they use its public HTTP surface and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urljoin, urlsplit

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_sandbox import Sandbox

STATE = "0123456789abcdef0123456789abcdef"
WEB = "workspaces/northwind/sources/web-prod"
MOBILE = "workspaces/northwind/sources/mobile-prod"
WEB_DESTINATION = f"{WEB}/destinations/acme-crm"
OWNER = "owner@northwind.example"
TRACK = {"event": "Signed Up", "userId": "cust_20418", "messageId": "m-1", "properties": {"plan": "team"}}


@dataclass
class Customer:
    """Walks through login and consent with a browser's means: cookies, redirects and forms."""

    sandbox: Sandbox
    http: httpx.AsyncClient
    extra: dict[str, str] = field(default_factory=dict)

    def authorize_parameters(self, **changes: str) -> dict[str, str]:
        app = self.sandbox.config.apps[0]
        parameters = {
            "response_type": "code",
            "client_id": app.client_id,
            "redirect_uri": app.redirect_uris[0],
            "scope": app.scope,
            "state": STATE,
        }
        return {**parameters, **self.extra, **changes}

    async def authorize(self, **changes: str) -> httpx.Response:
        return await self.http.get("/oauth2/auth", params=self.authorize_parameters(**changes))

    async def log_in(self, user: str = OWNER, login_page: str = "/login") -> httpx.Response:
        page = await self.http.get(login_page)
        assert page.status_code == 200
        assert user in page.text
        return await self.http.post("/login", data={"login_challenge": hidden(page, "login_challenge"), "user": user})

    async def consent_page(self, user: str = OWNER, **changes: str) -> httpx.Response:
        """Log in and go as far as the consent page."""
        started = await self.authorize(**changes)
        if "/login" in started.headers["location"]:
            back = await self.log_in(user, started.headers["location"])
            started = await self.http.get(back.headers["location"])
        return await self.http.get(started.headers["location"])

    async def answer(self, page: httpx.Response, **form: str) -> httpx.Response:
        return await self.http.post("/authorize", data={"consent_challenge": hidden(page, "consent_challenge"), **form})

    async def allow(self, source: str = WEB, user: str = OWNER, **changes: str) -> httpx.URL:
        """The whole way to the callback's URL."""
        page = await self.consent_page(user, **changes)
        answered = await self.answer(page, source=source, decision="allow")
        assert answered.status_code == 302, answered.text
        finished = await self.http.get(answered.headers["location"])
        return httpx.URL(finished.headers["location"])

    async def exchange(self, callback: httpx.URL, **changes: str) -> httpx.Response:
        app = self.sandbox.config.apps[0]
        form = {
            "grant_type": "authorization_code",
            "code": callback.params["code"],
            "redirect_uri": app.redirect_uris[0],
        }
        return await self.http.post("/oauth2/token", data={**form, **changes}, auth=(app.client_id, app.client_secret))

    async def install(self, source: str = WEB, user: str = OWNER) -> dict[str, object]:
        """Install the App and return the token response."""
        response = await self.exchange(await self.allow(source, user))
        assert response.status_code == 200, response.text
        body = response.json()
        assert isinstance(body, dict)
        return body

    async def enable(self, api_key: str = "pk_orchid_51f0", source: str = WEB) -> str:
        """Install, create an enabled destination and return the access token."""
        token = str((await self.install(source))["access_token"])
        created = await self.create_destination(token, api_key, source=source)
        assert created.status_code == 200, created.text
        return token

    async def create_destination(
        self, token: str, api_key: str, *, source: str = WEB, fields: Mapping[str, object] | None = None
    ) -> httpx.Response:
        name = f"{source}/destinations/acme-crm"
        destination = {
            "name": name,
            "enabled": True,
            "connection_mode": "CLOUD",
            "config": [{"name": f"{name}/config/apiKey", "value": api_key}],
            **(fields or {}),
        }
        return await self.http.post(
            f"/v1beta/{source}/destinations", json={"destination": destination}, headers=bearer(token)
        )

    def write_key(self, source: str = WEB) -> str:
        return self.sandbox.state.world.sources[source].write_keys[0]

    async def send(self, kind: str, event: object, source: str = WEB) -> httpx.Response:
        return await self.http.post(f"/v1/{kind}", json=event, auth=(self.write_key(source), ""))

    async def control(self, name: str, body: object = None) -> dict[str, object]:
        response = await self.http.post(f"/_sandbox/{name}", json={} if body is None else body)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert isinstance(answer, dict)
        return answer

    async def idle(self, *, retries: bool = True) -> dict[str, object]:
        """Wait until nothing is being delivered, nor waits for a retry unless told otherwise; returns the summary."""
        query = {"timeout_seconds": "5", "retries": "1" if retries else "0"}
        answer = (await self.http.get("/_sandbox/idle", params=query)).json()
        assert isinstance(answer, dict)
        assert answer["idle"], answer
        return answer

    async def deliveries(self) -> list[dict[str, object]]:
        """Every delivery so far, with its attempts."""
        found = (await self.http.get("/_sandbox/deliveries")).json()["deliveries"]
        assert isinstance(found, list)
        return found


def bearer(token: object) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def hidden(page: httpx.Response, name: str) -> str:
    """The value of a hidden field."""
    match = re.search(rf'<input type="hidden" name="{name}" value="([^"]*)">', page.text)
    assert match, page.text
    return match.group(1)


def query_of(response: httpx.Response) -> dict[str, str]:
    """The query of the response's Location, single values."""
    location = urljoin("http://sandbox.test", response.headers["location"])
    return {key: values[0] for key, values in parse_qs(urlsplit(location).query, keep_blank_values=True).items()}
