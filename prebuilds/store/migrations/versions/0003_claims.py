"""Claims that wait, and hand-overs with nothing to do"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# The first version of the claim stays: workers of the release before may still call it while they are replaced.
FUNCTIONS = [Path(__file__).with_name(f"{name}.sql").read_text() for name in ("hand_over_v1", "claim_workspace_v2")]


def upgrade() -> None:
    op.add_column(
        "template_versions", sa.Column("hands_over", sa.Boolean(), server_default=sa.text("true"), nullable=False)
    )
    op.create_table(
        "claim_queue",
        sa.Column("claim_id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("template_id", sa.Uuid(), nullable=False),
        sa.Column("preset_name", sa.Text(), nullable=False),
        sa.Column("request", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refusal", sa.Text(), nullable=True),
        sa.Column("looked_after_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["claim_id"], ["claims.id"], name=op.f("claim_queue_claim_id_fkey")),
        sa.ForeignKeyConstraint(["template_id"], ["templates.id"], name=op.f("claim_queue_template_id_fkey")),
        sa.PrimaryKeyConstraint("claim_id", name=op.f("claim_queue_pkey")),
        sa.CheckConstraint("refusal IS NULL OR decided_at IS NOT NULL", name="claim_queue_refusal_check"),
    )
    op.create_index(
        "claim_queue_waiting_idx",
        "claim_queue",
        ["template_id", "preset_name", "position"],
        unique=False,
        postgresql_where=sa.text("decided_at IS NULL"),
    )
    op.create_index("claim_queue_looked_after_idx", "claim_queue", ["looked_after_at"], unique=False)
    for function in FUNCTIONS:
        op.execute(function)
