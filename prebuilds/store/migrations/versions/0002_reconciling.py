"""What reconciling needs: how creations went, evidence and its age, probes, the rules in force"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FINISHED = "status IN ('succeeded', 'failed', 'canceled')"


def upgrade() -> None:
    op.add_column("workspaces", sa.Column("latest_ended_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("workspaces", sa.Column("kept", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("workspaces", sa.Column("probe_failures", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("workspaces", sa.Column("probe_failed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("settings", sa.Column("rules", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.create_index(
        "workspace_builds_creations_idx",
        "workspace_builds",
        ["preset_id", "created_at"],
        unique=False,
        postgresql_where=sa.text("number = 1 AND status IN ('succeeded', 'failed')"),
    )
    op.create_index(
        "workspace_builds_failed_creations_idx",
        "workspace_builds",
        ["preset_id", "created_at"],
        unique=False,
        postgresql_where=sa.text("number = 1 AND status = 'failed'"),
    )
    op.execute(f"""
        UPDATE workspaces w SET latest_ended_at = b.completed_at
          FROM workspace_builds b
         WHERE b.workspace_id = w.id AND b.number = w.latest_build AND w.deleted_at IS NULL AND b.{FINISHED}
    """)
