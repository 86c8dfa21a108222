"""Builds' logs, and what the inventory has found"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "build_logs",
        sa.Column("build_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["build_id"], ["workspace_builds.id"], name=op.f("build_logs_build_id_fkey")),
        sa.PrimaryKeyConstraint("build_id", "attempt", "number", name=op.f("build_logs_pkey")),
    )
    op.create_index("build_logs_begun_idx", "build_logs", ["at"], unique=False, postgresql_where=sa.text("number = 1"))
    op.create_table(
        "inventory_sightings",
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("provisioner", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("finding", sa.Text(), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sightings", sa.Integer(), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("workspace_id", "provisioner", "place", name=op.f("inventory_sightings_pkey")),
        sa.CheckConstraint("finding IN ('orphan', 'vanished')", name="inventory_sightings_finding_check"),
    )
    op.add_column(
        "settings",
        sa.Column("inventory_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
