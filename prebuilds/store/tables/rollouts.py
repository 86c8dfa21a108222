"""Rollouts: how a template's pools move from one version to the next."""

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
    Column("canary_state", Text),  # null: the new version goes to all at once
    # Set for a rollout back from a version that was never rolled out completely: `failed` as a canary, or `unfinished`.
    Column("leaves", Text),
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
    CheckConstraint("canary_state IN ('running', 'passed', 'failed', 'ended')", name="rollouts_canary_state_check"),
    CheckConstraint("leaves IN ('unfinished', 'failed')", name="rollouts_leaves_check"),
)

# Counts of each pool's claims by name while a canary runs: all that were served, and those that the new version served.
canary_claims = Table(
    "canary_claims",
    metadata,
    Column("rollout_id", Uuid, ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    uuid_column("preset_id", pk=True),  # the new version's
    uuid_column("older_preset_id"),  # in the version that the rollout began from
    Column("claims", Integer, nullable=False, server_default=text("0")),
    Column("new_claims", Integer, nullable=False, server_default=text("0")),
)
