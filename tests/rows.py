"""Rows for tests that need one and do not care about its fields."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control.tables import Install, InstallStatus


def an_install(install_id: str, *, now: datetime | None = None, **fields: Any) -> Install:
    """Return a connected install of account ``acme`` and component ``acme-crm``; ``fields`` are others than these."""
    at = now or utc_now()
    usual = {
        "account": "acme",
        "component": "acme-crm",
        "install_name": f"installs/{install_id}",
        "workspace_name": "workspaces/northwind",
        "scope": "destination/acme-crm",
        "status": InstallStatus.CONNECTED,
        "created_at": at,
        "updated_at": at,
    }
    return Install(id=install_id, **{**usual, **fields})
