"""Lists of events that ended otherwise than handled decide by their index alone; none goes by an index of installs

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_RARE = sa.text("state <> 'pending' AND state <> 'handled'")


def upgrade() -> None:
    op.drop_index("ix_events_install_id", "events")
    _index_rare(include=["account", "component", "install_id", "type"])


def downgrade() -> None:
    _index_rare()
    op.create_index("ix_events_install_id", "events", ["install_id"])


def _index_rare(include: list[str] | None = None) -> None:
    op.drop_index("ix_events_rare", "events")
    op.create_index(
        "ix_events_rare", "events", ["state", "id"], postgresql_where=_RARE, postgresql_include=include or []
    )
