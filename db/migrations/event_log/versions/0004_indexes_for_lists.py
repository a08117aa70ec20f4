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
    _index_rare(include=["account", "component", "install_id", "type"])
    op.drop_index("ix_events_install_id", "events")


def downgrade() -> None:
    _index_rare()
    op.create_index("ix_events_install_id", "events", ["install_id"])


def _index_rare(include: list[str] | None = None) -> None:
    # The new one first: while it is built others may read. Then the old one goes, for which all have to wait a moment.
    op.create_index(
        "ix_events_rare_new", "events", ["state", "id"], postgresql_where=_RARE, postgresql_include=include or []
    )
    op.drop_index("ix_events_rare", "events")
    op.execute("ALTER INDEX ix_events_rare_new RENAME TO ix_events_rare")
