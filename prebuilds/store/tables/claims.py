"""Claims, decided and waiting."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from prebuilds.store.tables.columns import APPENDED, metadata, one_of, time_column, traceparent_column, uuid_column

claims = Table(
    "claims",
    metadata,
    Column("id", Text, primary_key=True),
    Column("request_hash", LargeBinary, nullable=False),
    # Decides who may see the request's outcome: the keys of its people, and its preset (a path or an id) or template.
    Column("owner", Text),
    Column("initiator", Text),
    Column("target", Text),
    Column("token_id", Uuid),  # the token that it came with; null: none
    Column("outcome", Text),  # null: not decided yet
    Column("miss_reason", Text),
    uuid_column("workspace_id", null=True),  # no foreign key, since the workspace's row is removed before the answer
    Column("answer", JSONB),
    time_column("transferred_at"),  # when its workspace was transferred; from then on the answer is not given any more
    # A run is one run of the claim's workflow, with all its attempts. The row has the run for which the claim was last
    # decided, and whether that run was answered. Another run may take the claim over, unless it began before
    # `other_runs_after`, by Temporal's clock.
    Column("run", Text, nullable=False),
    Column("other_runs_after", DateTime(timezone=True), nullable=False),
    Column("run_answered", Boolean, nullable=False, server_default=text("false")),
    time_column("created_at", null=False),
    time_column("completed_at"),
    UniqueConstraint("workspace_id"),
    Index("claims_without_workspace_idx", "created_at", postgresql_where=text("workspace_id IS NULL")),
    CheckConstraint("octet_length(id) BETWEEN 1 AND 200", name="claims_id_check"),
    CheckConstraint(one_of("outcome", "prebuilt", "created", "missed", "refused"), name="claims_outcome_check"),
    CheckConstraint(
        f"(workspace_id IS NOT NULL) = coalesce({one_of('outcome', 'prebuilt', 'created')}, false)",
        name="claims_winner_check",
    ),
    postgresql_with=APPENDED,
)

# Claims that wait. A decided row stays until its workflow has read the answer.
claim_queue = Table(
    "claim_queue",
    metadata,
    Column("claim_id", Text, ForeignKey("claims.id"), primary_key=True),
    Column("position", BigInteger, Identity(), nullable=False),  # first come, first served
    Column("workflow_id", Text, nullable=False),
    uuid_column("template_id", "templates.id"),
    Column("preset_name", Text, nullable=False),  # not the preset's id: a new version takes over the waiting claims
    uuid_column("owner_id", "users.id"),
    uuid_column("initiator_id", "users.id"),
    Column("request", JSONB, nullable=False),  # without parameters and claim parameters
    Column("secrets", JSONB),  # its claim parameters, encrypted; null: none, or decided
    Column("request_hash", LargeBinary, nullable=False),
    time_column("queued_at", null=False),
    Column("deadline", DateTime(timezone=True), nullable=False),
    time_column("decided_at"),  # null: waiting
    Column("refusal", Text),  # the type of the error that ended the wait; null: none did
    time_column("looked_after_at", null=False),  # when the relay last checked its workflow
    Column("left_by", Text),  # the actor who withdrew it; null: nobody did
    traceparent_column(),
    Index(
        "claim_queue_waiting_idx",
        "template_id",
        "preset_name",
        "position",
        postgresql_where=text("decided_at IS NULL"),
    ),
    Index("claim_queue_looked_after_idx", "looked_after_at"),
    CheckConstraint("refusal IS NULL OR decided_at IS NOT NULL", name="claim_queue_refusal_check"),
)
