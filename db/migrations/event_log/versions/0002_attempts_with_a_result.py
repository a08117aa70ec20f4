"""How many attempts of a handler ended with a result

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Of the attempts so far nobody knows: counted from nothing, a handler is given up later, and never too early.
    op.add_column("handler_outcomes", sa.Column("results", sa.Integer(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    op.drop_column("handler_outcomes", "results")
