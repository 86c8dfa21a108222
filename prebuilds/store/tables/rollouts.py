"""Rollouts: how a template's pools came, or come, from one version to the next."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from prebuilds.store.tables.columns import metadata, time_column, uuid_column

rollouts = Table(
    "rollouts",
    metadata,
    uuid_column("id", pk=True),
    Column("template_id", Uuid, ForeignKey("templates.id", ondelete="CASCADE"), nullable=False),
    # The version that the pools stood on when it began. Null: the version was removed since.
    Column("from_version_id", Uuid, ForeignKey("template_versions.id", ondelete="SET NULL")),
    Column("to_version_id", Uuid, ForeignKey("template_versions.id", ondelete="SET NULL")),
    Column("from_number", Integer, nullable=False),
    Column("to_number", Integer, nullable=False),
    Column("from_presets", ARRAY(Uuid), nullable=False),  # the presets of the version that it began from
    Column("policy", JSONB, nullable=False),  # the template's, as it was
    Column("state", Text, nullable=False, server_default=text("'running'")),
    Column("reason", Text),  # why it failed or ended
    Column("progress", Integer, nullable=False, server_default=text("0")),  # percent of the members that are new
    Column("started_by", Text, nullable=False),
    time_column("started_at", null=False),
    time_column("ended_at"),
    Index(
        "rollouts_open_key",
        "template_id",
        unique=True,
        postgresql_where=text("state IN ('running', 'paused', 'failed')"),
    ),
    Index("rollouts_template_idx", "template_id", text("started_at DESC")),
    CheckConstraint(
        "state IN ('running', 'paused', 'failed', 'succeeded', 'superseded', 'undone')", name="rollouts_state_check"
    ),
)
