"""The routes of the dashboard: pages to look at, acts to do, and the way in and out."""

from __future__ import annotations

from starlette.routing import Route

from enable_with_segment.oauth_app.web.dashboard import events, history, installs, keys, sign_in
from enable_with_segment.oauth_app.web.dashboard.access import Endpoint, acting, viewing

PAGES: tuple[tuple[str, Endpoint], ...] = (
    ("/dashboard", installs.list_installs),
    ("/dashboard/installs/{install_id}", installs.show_install),
    ("/dashboard/events", events.list_events),
    ("/dashboard/events/{message_id:path}", events.show_event),
    ("/dashboard/dead-letters", events.list_dead_letters),
    ("/dashboard/keys", keys.list_keys),
    ("/dashboard/audit", history.list_entries),
)
"""Everybody who is signed in may look."""

ACTS: tuple[tuple[str, Endpoint], ...] = (
    ("/dashboard/installs/{install_id}/reconcile", installs.reconcile),
    ("/dashboard/installs/{install_id}/rotate-key", installs.rotate_key),
    ("/dashboard/installs/{install_id}/disconnect", installs.disconnect),
    ("/dashboard/installs/{install_id}/keep", installs.keep_install),
    ("/dashboard/payload", events.show_payload),
    ("/dashboard/dead-letters/retry", events.retry_dead_letters),
    ("/dashboard/keys/{key_id}/revoke", keys.revoke_key),
    ("/dashboard/tokens/{token_id}/revoke", keys.revoke_token),
)
"""Only operators may act, from our own pages, with a reason."""


def routes() -> list[Route]:
    """Every route of the dashboard."""
    return [
        *sign_in.routes(),
        *(Route(path, viewing(endpoint), methods=["GET"]) for path, endpoint in PAGES),
        *(Route(path, acting(endpoint), methods=["POST"]) for path, endpoint in ACTS),
    ]
