"""The identity provider of the operators: OpenID Connect with PKCE, and an ID token that is checked in full.

Authlib builds the URL and exchanges the code. What is checked of the ID token is OpenID Connect Core section 3.1.3.7.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.segment_api.http import trusted
from enable_with_segment.segment_api.oauth_client import AsyncOAuth2Client

_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
_LEEWAY_SECONDS = 60
_FRESH_SECONDS = 3600.0
_REREAD_KEYS_AFTER_SECONDS = 30.0
_LARGEST_ANSWER = 512 * 1024
_TIMEOUT_SECONDS = 10.0
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class ProviderUnavailable(Exception):
    """The identity provider does not answer, or not as OpenID Connect says."""


class IdTokenRefused(Exception):
    """The provider's answer does not prove who signed in. The text says what was wrong, without the token."""


class _CodeClient(AsyncOAuth2Client):  # type: ignore[misc]  # Authlib ships no types
    """Exchanges codes, and forgets what came: one client serves every operator."""

    def parse_response_token(self, response: httpx.Response) -> str:
        """Return the ID token of an answer."""
        if response.status_code >= 500:
            raise ProviderUnavailable(f"the token endpoint answered {response.status_code}")
        answer = json.loads(response.content)
        if response.status_code != 200 or not isinstance(answer, dict):
            raise IdTokenRefused(f"the provider refused the code with status {response.status_code}")
        if not isinstance(answer.get("id_token"), str):
            raise IdTokenRefused("the provider sent no ID token")
        return str(answer["id_token"])


class IdentityProvider:
    """Our side of one OpenID Connect provider.

    Args:
        issuer: as in its discovery document; a slash at the end makes no difference.
        redirect_uri: registered there, byte for byte.
        transport: in place of the network, for tests.
        now: seconds since the epoch, for the times in ID tokens.
    """

    def __init__(
        self,
        *,
        issuer: str,
        client_id: str,
        client_secret: str,
        redirect_uri: str,
        transport: httpx.AsyncBaseTransport | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._issuer = issuer
        self._client_id = client_id
        self._now = now
        self._http = httpx.AsyncClient(
            transport=transport, verify=trusted(), timeout=_TIMEOUT_SECONDS, follow_redirects=False
        )
        self._oauth = _CodeClient(
            client_id=client_id,
            client_secret=client_secret,
            scope="openid email profile",
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            transport=transport,
            verify=trusted(),
            timeout=_TIMEOUT_SECONDS,
            follow_redirects=False,
        )
        self._metadata: tuple[float, Mapping[str, Any]] | None = None
        self._keys: tuple[float, KeySet] | None = None
        self._reading = asyncio.Lock()

    async def check(self) -> None:
        """Read its discovery document and its keys, as a login would.

        Raises:
            ProviderUnavailable: one of them cannot be had, or is not as OpenID Connect says.
        """
        await self._key_set()

    async def authorization_url(self, *, state: str, nonce: str, code_verifier: str) -> str:
        """Return where to send the browser.

        Raises:
            ProviderUnavailable: its discovery document cannot be had.
        """
        metadata = await self._discover()
        url, _ = self._oauth.create_authorization_url(
            metadata["authorization_endpoint"], state=state, nonce=nonce, code_verifier=code_verifier
        )
        return str(url)

    async def claims_of(self, code: str, *, nonce: str, code_verifier: str) -> Mapping[str, Any]:
        """Exchange a code and return the claims of a valid ID token.

        Raises:
            ProviderUnavailable: no answer, or not one of OpenID Connect.
            IdTokenRefused: the code or the ID token is not good.
        """
        metadata = await self._discover()
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                id_token: str = await self._oauth.fetch_token(
                    metadata["token_endpoint"], code=code, code_verifier=code_verifier, grant_type="authorization_code"
                )
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            raise ProviderUnavailable(f"the token endpoint failed ({type(error).__name__})") from None
        return await self._checked(id_token, nonce=nonce, issuer=metadata["issuer"])

    async def aclose(self) -> None:
        """Close the connections."""
        await self._oauth.aclose()
        await self._http.aclose()

    async def _checked(self, id_token: str, *, nonce: str, issuer: str) -> Mapping[str, Any]:
        try:
            claims = await self._verified(id_token)
            expected: dict[str, Any] = {
                "iss": {"essential": True, "value": issuer},
                "aud": {"essential": True, "value": self._client_id},
                "nonce": {"essential": True, "value": nonce},
                **{name: {"essential": True} for name in ("sub", "exp", "iat")},
            }
            jwt.JWTClaimsRegistry(now=int(self._now()), leeway=_LEEWAY_SECONDS, **expected).validate(claims)
        except (JoseError, ValueError) as error:
            raise IdTokenRefused(f"the ID token is not valid ({type(error).__name__})") from None
        parties = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        if claims.get("azp", self._client_id) != self._client_id or (len(parties) > 1 and "azp" not in claims):
            raise IdTokenRefused("the ID token was made for another client")
        return claims

    async def _verified(self, id_token: str) -> dict[str, Any]:
        """Check the signature; keys are read again once, because the provider may have rotated them."""
        try:
            return dict(jwt.decode(id_token, await self._key_set(), algorithms=_ALGORITHMS).claims)
        except (JoseError, ValueError):
            newer = await self._key_set(after=_REREAD_KEYS_AFTER_SECONDS)
            return dict(jwt.decode(id_token, newer, algorithms=_ALGORITHMS).claims)

    async def _discover(self) -> Mapping[str, Any]:
        async with self._reading:
            if self._metadata is None or self._now() - self._metadata[0] > _FRESH_SECONDS:
                found = await self._get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
                if str(found.get("issuer", "")).rstrip("/") != self._issuer.rstrip("/"):
                    raise ProviderUnavailable("the discovery document names another issuer (OIDC_ISSUER)")
                for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                    _check_url(name, found.get(name))
                self._metadata = (self._now(), found)
            return self._metadata[1]

    async def _key_set(self, *, after: float = _FRESH_SECONDS) -> KeySet:
        metadata = await self._discover()
        async with self._reading:
            if self._keys is None or self._now() - self._keys[0] > after:
                found = await self._get(metadata["jwks_uri"])
                try:
                    keys = KeySet.import_key_set(found)  # type: ignore[arg-type]
                except (JoseError, ValueError, KeyError, TypeError) as error:
                    raise ProviderUnavailable(f"the keys cannot be read ({type(error).__name__})") from None
                self._keys = (self._now(), keys)
            return self._keys[1]

    async def _get(self, url: str) -> dict[str, Any]:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                async with self._http.stream("GET", url, headers={"Accept": "application/json"}) as response:
                    body = bytearray()
                    async for part in response.aiter_bytes():
                        body += part
                        if len(body) > _LARGEST_ANSWER:
                            raise ProviderUnavailable("an answer is too large")
            found = json.loads(bytes(body)) if response.status_code == 200 else None
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            raise ProviderUnavailable(f"no usable answer ({type(error).__name__})") from None
        if not isinstance(found, dict):
            raise ProviderUnavailable(f"an answer with status {response.status_code} is not a JSON object")
        return found


def identity_provider_of(settings: Settings) -> IdentityProvider | None:
    """Build the client of the configured provider; ``None`` when none is."""
    if settings.oidc_issuer is None or settings.oidc_client_id is None or settings.oidc_client_secret is None:
        return None
    return IdentityProvider(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        client_secret=settings.oidc_client_secret.get_secret_value(),
        redirect_uri=f"{settings.base_url}/dashboard/callback",
    )


def _check_url(name: str, url: object) -> None:
    """Codes and the client secret are sent there, so only over TLS, except on this machine."""
    parts = urlsplit(url) if isinstance(url, str) else urlsplit("")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ProviderUnavailable(f"{name} in the discovery document is not an https URL")
