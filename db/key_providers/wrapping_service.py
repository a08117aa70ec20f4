"""The client of a key service: a small HTTP protocol that any KMS can stand behind.

``POST {url}/wrap`` with ``{"key_id": ..., "plaintext": ...}`` answers ``{"wrapped": ...}``; ``POST {url}/unwrap`` with
``{"key_id": ..., "wrapped": ...}`` answers ``{"plaintext": ...}``. Values are standard base64. The service has to bind
``key_id`` into what it wraps (a KMS calls this an encryption context), and answers 200, or 4xx when asking again
makes no sense. A token, if there is one, goes along as ``Authorization: Bearer``.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from enable_with_segment.db.encryption import EncryptionKeysInvalid
from enable_with_segment.db.key_providers.provider import KeysUnavailable

if TYPE_CHECKING:
    from enable_with_segment.http_client import httpx

SETTING = "ENCRYPTION_KMS_URL"
_ATTEMPTS = 3
_LARGEST_ANSWER = 64 * 1024

Sleep = Callable[[float], Awaitable[None]]


class WrappingService:
    """Wraps and unwraps data keys; asks again twice when the service does not answer.

    Args:
        url: its address, https unless on this machine (the caller has checked it).
        token: sent as a bearer token.
        timeout: seconds for one request.
        http: a transport in place of the network.
        sleep: waits between attempts.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float = 5.0,
        http: httpx.AsyncBaseTransport | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._timeout = timeout
        self._http = http
        self._sleep = sleep

    async def wrap(self, key_id: str, key: bytes) -> bytes:
        """Return the wrapped form of a data key.

        Raises:
            EncryptionKeysInvalid: the service refuses, or its answer is not of the protocol.
            KeysUnavailable: it does not answer, or has trouble of its own.
        """
        return await self._ask("wrap", key_id, "plaintext", key, "wrapped")

    async def unwrap(self, key_id: str, wrapped: bytes) -> bytes:
        """Return the data key of a wrapped form. Raises as :meth:`wrap`."""
        return await self._ask("unwrap", key_id, "wrapped", wrapped, "plaintext")

    async def _ask(self, action: str, key_id: str, given: str, value: bytes, wanted: str) -> bytes:
        # Most deployments have no key service, and importing it would delay every command.
        from enable_with_segment.http_client import httpx  # noqa: PLC0415

        body = {"key_id": key_id, given: base64.b64encode(value).decode()}
        problem = ""
        async with httpx.AsyncClient(
            transport=self._http, timeout=self._timeout, follow_redirects=False, headers=self._headers
        ) as client:
            for attempt in range(_ATTEMPTS):
                if attempt:
                    await self._sleep(0.5 * 2**attempt)
                try:
                    async with asyncio.timeout(self._timeout):
                        response = await client.post(f"{self._url}/{action}", json=body)
                except (httpx.HTTPError, TimeoutError) as error:
                    problem = type(error).__name__
                    continue
                if response.status_code < 500 and response.status_code != 429:
                    return _value(response, action, key_id, wanted)
                problem = f"status {response.status_code}"
        raise KeysUnavailable(f"{SETTING}: the key service could not {action} key '{key_id}' ({problem})")


def _value(response: httpx.Response, action: str, key_id: str, wanted: str) -> bytes:
    """Read the answer; what it says in words is not repeated, because it may quote what was sent."""
    if response.status_code != 200:
        raise EncryptionKeysInvalid(
            f"{SETTING}: the key service refuses to {action} key '{key_id}' (status {response.status_code})"
        )
    try:
        return base64.b64decode(json.loads(response.content[:_LARGEST_ANSWER])[wanted], validate=True)
    except (ValueError, KeyError, TypeError):
        raise EncryptionKeysInvalid(
            f"{SETTING}: the key service's answer to {action} key '{key_id}' is not of the protocol"
        ) from None
