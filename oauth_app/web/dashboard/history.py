"""The audit in the dashboard."""

from __future__ import annotations

from starlette.responses import Response

from enable_with_segment.db.control import audit
from enable_with_segment.oauth_app.web.dashboard.access import Visit

_SHOWN = 200


async def list_entries(visit: Visit) -> Response:
    """The newest entries that match."""
    query = {name: visit.request.query_params.get(name, "").strip()[:200] for name in ("action", "subject")}
    wanted = {name: value if value.isprintable() else "\N{REPLACEMENT CHARACTER}" for name, value in query.items()}
    async with visit.services.database.transaction() as session:
        entries = await audit.list_newest(
            session, action=wanted["action"] or None, subject=wanted["subject"] or None, limit=_SHOWN
        )
    return visit.page("audit.html", entries=entries, wanted=wanted, most=_SHOWN)
