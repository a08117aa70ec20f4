"""Each deletion notes for itself whom it covers

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_KEY = ["account", "component", "person_hash"]


def upgrade() -> None:
    op.drop_constraint("erasures_pkey", "erasures")
    op.create_primary_key("erasures_pkey", "erasures", [*_KEY, "event_id"])


def downgrade() -> None:
    op.execute(
        "DELETE FROM erasures old USING erasures new WHERE (old.account, old.component, old.person_hash)"
        " = (new.account, new.component, new.person_hash) AND old.event_id < new.event_id"
    )
    op.drop_constraint("erasures_pkey", "erasures")
    op.create_primary_key("erasures_pkey", "erasures", _KEY)
