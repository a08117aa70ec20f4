"""An HTTP endpoint on a real socket that keeps what it is sent and answers as told."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.listening import listening


@dataclass
class Endpoint:
    """Answers with ``answers`` in turn, then with 204."""

    url: str = ""
    answers: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    async def take(self, request: Request) -> Response:
        self.requests.append((request.url.path, dict(request.headers), await request.body()))
        status, headers = self.answers.popleft() if self.answers else (204, {})
        return Response(status_code=status, headers=headers)


@asynccontextmanager
async def endpoint() -> AsyncIterator[Endpoint]:
    """Listen while the block lasts."""
    made = Endpoint()
    app = Starlette(routes=[Route("/{path:path}", made.take, methods=["GET", "POST"])])
    async with listening(app) as port:
        made.url = f"http://127.0.0.1:{port}"
        yield made
