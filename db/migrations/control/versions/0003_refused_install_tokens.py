"""Since when, as what and in which words Segment refuses an install token

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from enable_with_segment.db.types import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ADDED = ("refused_since", "refusal", "refusal_text")


def upgrade() -> None:
    with op.batch_alter_table("install_tokens") as table:
        table.add_column(sa.Column("refused_since", UtcDateTime(), nullable=True))
        table.add_column(sa.Column("refusal", sa.String(), nullable=True))
        table.add_column(sa.Column("refusal_text", sa.String(), nullable=True))
    # Their keys work, so they are not disconnected.
    op.execute(
        "UPDATE installs SET status = 'needs_reconnect', disconnected_at = NULL"
        " WHERE status = 'disconnected' AND status_reason = 'refresh_refused'"
    )


def downgrade() -> None:
    with op.batch_alter_table("install_tokens") as table:
        for name in _ADDED:
            table.drop_column(name)
