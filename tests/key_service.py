"""A stand-in of a key service, for tests of wrapped keys."""

from __future__ import annotations

import base64
import os
from collections.abc import Awaitable, Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

TOKEN = "token-of-the-key-service"


class KeyService:
    """A stand-in of a KMS: wraps with a key that never leaves it, bound to the key id."""

    def __init__(self) -> None:
        self._cipher = AESGCM(AESGCM.generate_key(256))
        self.asked: list[str] = []
        self.troubles: list[Callable[[], Awaitable[Response]]] = []
        routes = [Route("/v1/wrap", self.wrap, methods=["POST"]), Route("/v1/unwrap", self.unwrap, methods=["POST"])]
        self.app = Starlette(routes=routes)

    async def wrap(self, request: Request) -> Response:
        body = await request.json()
        nonce = os.urandom(12)
        sealed = self._cipher.encrypt(nonce, base64.b64decode(body["plaintext"]), body["key_id"].encode())
        return await self._answer(request, "wrapped", nonce + sealed)

    async def unwrap(self, request: Request) -> Response:
        body = await request.json()
        wrapped = base64.b64decode(body["wrapped"])
        try:
            return await self._answer(
                request, "plaintext", self._cipher.decrypt(wrapped[:12], wrapped[12:], body["key_id"].encode())
            )
        except InvalidTag:
            return PlainTextResponse(f"cannot open {body['wrapped']}", status_code=400)

    async def _answer(self, request: Request, name: str, value: bytes) -> Response:
        self.asked.append(request.url.path)
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return PlainTextResponse("who are you?", status_code=403)
        if self.troubles:
            return await self.troubles.pop(0)()
        return JSONResponse({name: base64.b64encode(value).decode()})
