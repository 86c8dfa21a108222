"""Notifications to operators"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notifications",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("notifier", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("build_id", sa.Uuid(), nullable=False),
        sa.Column("body", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'due'"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["build_id"], ["workspace_builds.id"], name=op.f("notifications_build_id_fkey")),
        sa.PrimaryKeyConstraint("id", "notifier", name=op.f("notifications_pkey")),
        sa.CheckConstraint("notifier IN ('log', 'webhook')", name="notifications_notifier_check"),
        sa.CheckConstraint("status IN ('due', 'sent', 'given_up')", name="notifications_status_check"),
        sa.CheckConstraint("(status = 'due') = (ended_at IS NULL)", name="notifications_ended_check"),
    )
    op.create_index(
        "notifications_due_idx", "notifications", ["due_at"], unique=False, postgresql_where=sa.text("status = 'due'")
    )
