"""Starlette that parses the JSON and answers 202, keeping nothing."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def receive(request: Request) -> Response:
    """Parse and answer 202."""
    event = await request.json()
    return Response(status_code=202 if "messageId" in event else 400)


app = Starlette(routes=[Route("/subscriptions/acme-crm", receive, methods=["POST"])])
