"""``/metrics``: for Prometheus, and for nobody else."""

from __future__ import annotations

import hmac
from ipaddress import ip_address

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from enable_with_segment.oauth_app.observability.exposition import CONTENT_TYPE, render
from enable_with_segment.oauth_app.web.services import services_of

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


def routes() -> list[Route]:
    """The route of this room."""
    return [Route("/metrics", metrics, methods=["GET"])]


async def metrics(request: Request) -> Response:
    """Say what this process counted and what the stores hold."""
    services = services_of(request)
    token = services.settings.metrics_token
    if not may_read(request, None if token is None else token.get_secret_value()):
        return PlainTextResponse("not found\n", status_code=404)
    text = render([*await services.store_metrics.families(), *services.metrics.families()])
    return Response(text, headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})


def may_read(request: Request, token: str | None) -> bool:
    """Tell whether somebody may read the metrics.

    With a token, whoever presents it. Without one, whoever asks directly from this machine or a private network; what
    comes through a proxy could come from anywhere.
    """
    if token is not None:
        presented = request.headers.get("authorization", "")
        return hmac.compare_digest(presented.encode(), f"Bearer {token}".encode())
    if any(name in request.headers for name in _FORWARDED) or request.client is None:
        return False
    try:
        return not ip_address(request.client.host).is_global
    except ValueError:
        return False
