"""The deployment: its settings, its passes, and what operators ask for and are told."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    Interval,
    Sequence,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from prebuilds.store.tables.columns import APPENDED, metadata, time_column, uuid_column

pass_numbers = Sequence("pass_numbers", metadata=metadata)
"""Numbers of passes, and of each preset's passes. A sequence never repeats, also not after the loop is restarted."""

schema_steps = Table(
    "schema_steps",
    metadata,
    Column("version", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    time_column("done_at", null=False),
)
"""The steps of migrations that are done (`prebuilds/store/schema_steps.py`)."""

settings = Table(
    "settings",
    metadata,
    Column("id", Boolean, primary_key=True, server_default=text("true")),
    Column("deployment_id", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    # Every new prebuild's id is derived from the epoch, so that after a restore a repeated pass number makes no id
    # twice.
    Column("epoch", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    Column("earlier_epochs", ARRAY(Uuid), nullable=False, server_default=text("'{}'")),
    time_column("restore_found_at"),  # when a restore was noticed; from then on claims and passes stop
    Column("restore_found", Text),
    # The Temporal namespace that this database is bound to: its id, and its name for messages.
    Column("temporal_namespace_id", Text),
    Column("temporal_namespace", Text),
    # The key of the requests' hashes, encrypted like claims' secrets. The first worker makes it.
    Column("request_key", JSONB),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("paused_by", Text),
    Column("paused_reason", Text),
    time_column("paused_at"),
    Column("loop", Text, nullable=False, server_default=text("'never_started'")),
    Column("loop_interval", Interval),
    Column("loop_number", BigInteger, nullable=False, server_default=text("0")),  # counts starts after a stop
    Column("stop_cause", Text),
    time_column("loop_since", null=False),  # when `loop` was last set
    Column("passes", BigInteger, nullable=False, server_default=text("0")),
    time_column("last_pass_at"),
    Column("rules", JSONB),  # the control worker's rules at the last pass
    time_column("inventory_at", null=False),  # when a control worker last started an inventory
    CheckConstraint("id", name="settings_one_row_check"),
    CheckConstraint("loop IN ('never_started', 'running', 'stopped')", name="settings_loop_check"),
)

passes = Table(
    "passes",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    time_column("started_at", null=False),
    time_column("completed_at"),
    Column("presets", Integer, nullable=False),
    Column("presets_with_work", Integer, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    time_column("at", null=False),
    Column("kind", Text, nullable=False),
    Column("actor", Text, nullable=False),
    uuid_column("preset_id", null=True),
    uuid_column("workspace_id", null=True),
    uuid_column("build_id", null=True),
    Column("claim_id", Text),
    Column("data", JSONB, nullable=False, server_default=text("'{}'")),
    Index("events_preset_idx", "preset_id", "id", postgresql_where=text("preset_id IS NOT NULL")),
    Index("events_workspace_idx", "workspace_id", "id", postgresql_where=text("workspace_id IS NOT NULL")),
    # A claim's other events are found by its workspace.
    Index(
        "events_lost_claim_idx",
        "claim_id",
        postgresql_where=text("claim_id IS NOT NULL AND workspace_id IS NULL"),
    ),
    # For kinds that passes and `explain` look up. A claim's events have other kinds and write nothing here.
    Index(
        "events_preset_kind_idx",
        "preset_id",
        "kind",
        "id",
        postgresql_where=text(
            "kind IN ('creation_held', 'prebuilds_created', 'holds_lifted', 'version_activated', 'policy_changed',"
            " 'schedule_unreadable')"
        ),
    ),
    Index("events_pool_resized_idx", "preset_id", "id", postgresql_where=text("kind = 'pool_resized'")),
    Index("events_near_miss_idx", "id", postgresql_where=text("kind = 'claim_near_miss'")),
    Index("events_head_start_changed_idx", "preset_id", "id", postgresql_where=text("kind = 'head_start_changed'")),
    Index(
        "events_of_all_idx",
        "id",
        postgresql_where=text(
            "preset_id IS NULL AND kind IN ('paused', 'resumed', 'loop_started', 'loop_stopped', 'applied')"
        ),
    ),
    Index("events_restored_idx", "id", postgresql_where=text("kind = 'restored'")),
    postgresql_with=APPENDED,
)

# Operators' requests through Temporal. A row is written in the transaction of the effect, so that a late attempt finds
# it.
operator_requests = Table(
    "operator_requests",
    metadata,
    Column("run", Text, primary_key=True),
    Column("answer", JSONB),  # null: carried out, at least in part, and not answered yet
    time_column("began_at", null=False),
    Index("operator_requests_began_idx", "began_at"),
)

# Notifications for operators, with a row for each notifier.
notifications = Table(
    "notifications",
    metadata,
    uuid_column("id", pk=True),
    Column("notifier", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    uuid_column("build_id", "workspace_builds.id", null=True),  # null: it is about no build
    Column("body", JSONB, nullable=False),
    time_column("created_at", null=False),
    Column("status", Text, nullable=False, server_default=text("'due'")),
    time_column("due_at", null=False),  # while a sender has reserved it, until when
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("error", Text),  # the last attempt's error
    time_column("ended_at"),
    Index("notifications_due_idx", "due_at", postgresql_where=text("status = 'due'")),
    Index("notifications_build_idx", "build_id"),
    Index("notifications_ended_idx", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
    Index("notifications_given_up_idx", "ended_at", postgresql_where=text("status = 'given_up'")),
    CheckConstraint("notifier IN ('log', 'webhook')", name="notifications_notifier_check"),
    CheckConstraint("status IN ('due', 'sent', 'given_up')", name="notifications_status_check"),
    CheckConstraint("(status = 'due') = (ended_at IS NULL)", name="notifications_ended_check"),
)

# The inventory's findings. A row is deleted when a later inspection does not find it again.
inventory_sightings = Table(
    "inventory_sightings",
    metadata,
    uuid_column("workspace_id", pk=True),  # no foreign key, since an orphan may have no row
    Column("provisioner", Text, primary_key=True),
    Column("place", Text, primary_key=True),  # `@HOST`, or the queue of a driver that any host serves
    Column("finding", Text, nullable=False),
    Column("first_seen_at", DateTime(timezone=True), nullable=False),
    Column("last_seen_at", DateTime(timezone=True), nullable=False),
    Column("sightings", Integer, nullable=False),
    time_column("told_at"),  # when an event about it was recorded
    CheckConstraint("finding IN ('orphan', 'vanished', 'contradicted')", name="inventory_sightings_finding_check"),
)

# What the removal of old rows remembers of each of its rules (`prebuilds/store/retention.py`). Whoever removes rows
# holds the rule's row meanwhile.
retention = Table(
    "retention",
    metadata,
    Column("rule", Text, primary_key=True),
    time_column("next_at", null=False),  # when the rule is due
    time_column("round_began_at", null=False),  # when the walk through its rows last began at the oldest
    time_column("walked_at"),  # how far the walk has come: the time and the id of a row; null: at the beginning
    Column("walked_id", Uuid),
    Column("removed_event", BigInteger),  # for the rule `events`: all events up to this number are removed
)
