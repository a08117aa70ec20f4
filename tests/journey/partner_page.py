"""A partner's own web site, with our button on it."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route


def partner_site(service: str, link: str) -> Starlette:
    """A partner's settings page that allows scripts from our address and nothing else, and a page that frames us."""
    policy = f"default-src 'none'; script-src {service}; base-uri 'none'; require-trusted-types-for 'script'"

    async def settings_page(_: Request) -> Response:
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Acme CRM settings</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<h1>Settings</h1><a href="{link}" data-enable-with-segment>Enable with Segment</a>'
            f'<script src="{service}/button.js" defer></script></html>'
        )
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    async def thief(_: Request) -> Response:
        return HTMLResponse(f'<!doctype html><title>Thief</title><iframe src="{link}"></iframe>')

    async def no_icon(_: Request) -> Response:
        return Response(status_code=204)

    routes = [Route("/", settings_page), Route("/thief", thief), Route("/favicon.ico", no_icon)]
    return Starlette(routes=routes)
