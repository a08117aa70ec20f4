"""A small OpenID Connect provider on a real socket, and every way in which its ID tokens can be wrong."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

CLIENT_ID = "dashboard"
CLIENT_SECRET = "provider-knows-this"


@functools.cache
def _first_key() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": "k1"})


@dataclass
class Provider:
    """Signs in whoever ``claims`` describes. ``spoil`` names one thing to do wrong with the next ID token."""

    issuer: str = ""
    claims: dict[str, Any] = field(
        default_factory=lambda: {"sub": "u-1", "email": "operator@acme.example", "email_verified": True}
    )
    spoil: str = ""
    refuse: str = ""
    exchanges: int = 0
    keys: list[RSAKey] = field(default_factory=lambda: [_first_key()])
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def rotate(self) -> None:
        """Sign with a new key from now on, and no longer publish the old one."""
        self.keys = [RSAKey.generate_key(2048, {"kid": secrets.token_hex(4)})]

    def application(self) -> Starlette:
        """The provider's endpoints."""
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discovery),
                Route("/authorize", self._authorize),
                Route("/token", self._token, methods=["POST"]),
                Route("/keys", self._keys),
            ]
        )

    async def _discovery(self, _request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
            }
        )

    async def _keys(self, _request: Request) -> Response:
        return JSONResponse(KeySet([*self.keys]).as_dict(private=False))

    async def _authorize(self, request: Request) -> Response:
        query = dict(request.query_params)
        assert query["client_id"] == CLIENT_ID
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        assert "openid" in query["scope"].split()
        if self.refuse:
            answer = {"error": self.refuse, "state": query["state"]}
        else:
            code = secrets.token_urlsafe(16)
            self.codes[code] = query
            answer = {"code": code, "state": query["state"], "iss": self.issuer}
        return RedirectResponse(f"{query['redirect_uri']}?{urlencode(answer)}", status_code=302)

    async def _token(self, request: Request) -> Response:
        self.exchanges += 1
        expected = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {expected}":
            return JSONResponse({"error": "invalid_client"}, status_code=401)
        form = dict(await request.form())
        asked = self.codes.pop(str(form.get("code")), None)
        digest = hashlib.sha256(str(form.get("code_verifier")).encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if asked is None or challenge != asked["code_challenge"] or form.get("redirect_uri") != asked["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        answer = {"access_token": "opaque", "token_type": "Bearer", "id_token": self._id_token(asked["nonce"])}
        if self.spoil == "no id token":
            del answer["id_token"]
        return JSONResponse(answer)

    def _id_token(self, nonce: str) -> str:
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "nonce": nonce,
            "iat": now,
            "exp": now + 300,
            **self.claims,
        }
        changed: dict[str, dict[str, Any]] = {
            "nonce": {"nonce": "another"},
            "issuer": {"iss": "https://evil.example"},
            "audience": {"aud": "another-client"},
            "audiences without azp": {"aud": [CLIENT_ID, "another-client"]},
            "azp": {"aud": [CLIENT_ID, "another-client"], "azp": "another-client"},
            "expired": {"iat": now - 900, "exp": now - 600},
            "from the future": {"iat": now + 900, "exp": now + 1200},
            "expiry is text": {"exp": "soon"},
        }
        claims |= changed.get(self.spoil, {})
        for name in ("nonce", "exp", "sub", "aud"):
            if self.spoil == f"no {name}":
                claims.pop(name)
        key = self.keys[0]
        header = {"alg": "RS256", "kid": key.kid}
        if self.spoil == "signature":
            return jwt.encode(header, claims, RSAKey.generate_key(2048, {"kid": str(key.kid)}))
        if self.spoil == "unsigned":
            parts = jwt.encode(header, claims, key).split(".")
            parts[0] = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
            return ".".join([*parts[:2], ""])
        if self.spoil == "signed with the client secret":
            return jwt.encode(
                {"alg": "HS256"}, claims, OctKey.import_key(CLIENT_SECRET.ljust(32)), algorithms=["HS256"]
            )
        return jwt.encode(header, claims, key)


SPOILED = [
    "nonce",
    "no nonce",
    "issuer",
    "audience",
    "audiences without azp",
    "azp",
    "no aud",
    "expired",
    "from the future",
    "expiry is text",
    "no exp",
    "no sub",
    "signature",
    "unsigned",
    "signed with the client secret",
    "no id token",
]


@contextlib.asynccontextmanager
async def running_provider() -> AsyncIterator[Provider]:
    """Serve a provider on a port of this machine while the block lasts."""
    provider = Provider()
    config = uvicorn.Config(
        provider.application(), host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        provider.issuer = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield provider
    finally:
        server.should_exit = True
        await serving
