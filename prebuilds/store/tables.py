"""The schema, with the constraints that PostgreSQL itself keeps.

The migrations must produce exactly this schema; `tests/postgres/test_migrations.py` checks that. Constraints and unique
indexes have names, since code recognizes violations by name.
"""

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
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Sequence,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, ExcludeConstraint

from prebuilds.vocabulary import NAME_LENGTH_MAX, NAME_PATTERN, PREBUILDS_USER, PREBUILDS_USER_ID
from prebuilds.vocabulary.owners import OWNER_LENGTH_MAX

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
    }
)
pass_numbers = Sequence("pass_numbers", metadata=metadata)
"""Numbers of passes, and of each preset's passes. A sequence never repeats, also not after the loop is restarted."""

UNFINISHED = "status IN ('pending', 'running', 'canceling')"
NAME_CHECK = f"name ~ '^{NAME_PATTERN.pattern}$' AND length(name) <= {NAME_LENGTH_MAX}"
OWNER_CHECK = f"name ~ '^[^/[:space:][:cntrl:]]+$' AND length(name) <= {OWNER_LENGTH_MAX} AND name NOT IN ('.', '..')"
NOW = text("now()")


def _uuid(name: str, references: str | None = None, *, null: bool = False, pk: bool = False) -> Column[object]:
    if references is None:
        return Column(name, Uuid, nullable=null, primary_key=pk)
    return Column(name, Uuid, ForeignKey(references), nullable=null, primary_key=pk)


def _time(name: str, *, null: bool = True) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=null, server_default=None if null else NOW)


organizations = Table(
    "organizations",
    metadata,
    _uuid("id", pk=True),
    Column("name", Text, nullable=False),
    Column("prebuilds_enabled", Boolean, nullable=False, server_default=text("true")),
    Column("members_exact", Boolean, nullable=False, server_default=text("false")),
    _time("created_at", null=False),
    UniqueConstraint("name"),
    CheckConstraint(NAME_CHECK, name="organizations_name_check"),
)

users = Table(
    "users",
    metadata,
    _uuid("id", pk=True),
    Column("name", Text, nullable=False),
    Column("key", Text, nullable=False),  # the name without case, for lookups (`prebuilds/vocabulary/owners.py`)
    _time("disabled_at"),
    _time("created_at", null=False),
    UniqueConstraint("key"),
    CheckConstraint(OWNER_CHECK, name="users_name_check"),
    CheckConstraint(f"(key = '{PREBUILDS_USER}') = (id = '{PREBUILDS_USER_ID}')", name="users_system_user_check"),
)

organization_members = Table(
    "organization_members",
    metadata,
    _uuid("organization_id", "organizations.id", pk=True),
    _uuid("user_id", "users.id", pk=True),
)

# Members who were removed, so that no claim with `create_owner` brings them back.
former_members = Table(
    "former_members",
    metadata,
    _uuid("organization_id", "organizations.id", pk=True),
    _uuid("user_id", "users.id", pk=True),
    _time("removed_at", null=False),
)

# Bearer tokens. The secret itself stands nowhere: `digest` is its SHA-256 (decision 0024).
tokens = Table(
    "tokens",
    metadata,
    _uuid("id", pk=True),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    _uuid("user_id", "users.id", null=True),  # whose claims it makes
    Column("epoch", Uuid, nullable=False),  # when it was made or last confirmed; in another epoch it is refused
    _time("created_at", null=False),
    Column("created_by", Text, nullable=False),
    _time("expires_at"),
    _time("last_used_at"),
    _time("revoked_at"),
    Column("revoked_by", Text),
    Index("tokens_live_name_key", "name", unique=True, postgresql_where=text("revoked_at IS NULL")),
    CheckConstraint(NAME_CHECK, name="tokens_name_check"),
    CheckConstraint("octet_length(digest) = 32", name="tokens_digest_check"),
    CheckConstraint("cardinality(scopes) > 0", name="tokens_scopes_check"),
    CheckConstraint("(revoked_at IS NULL) = (revoked_by IS NULL)", name="tokens_revoked_check"),
)

# Links that sign a browser in once (`prebuilds/store/sign_in_links.py`).
sign_in_links = Table(
    "sign_in_links",
    metadata,
    Column("digest", LargeBinary, primary_key=True),  # of the code
    Column("sealed", LargeBinary, nullable=False),  # the token, encrypted under the code
    Column("expires_at", DateTime(timezone=True), nullable=False),
)

templates = Table(
    "templates",
    metadata,
    _uuid("id", pk=True),
    _uuid("organization_id", "organizations.id"),
    Column("name", Text, nullable=False),
    _uuid("active_version_id", null=True),
    Column("deprecated", Boolean, nullable=False, server_default=text("false")),
    _time("deleted_at"),
    Column("default_ttl", Interval),
    Column("build_timeout", Interval, nullable=False, server_default=text("'30 minutes'")),
    Column("ready_timeout", Interval, nullable=False, server_default=text("'5 minutes'")),
    _time("created_at", null=False),
    Index(
        "templates_live_name_key", "organization_id", "name", unique=True, postgresql_where=text("deleted_at IS NULL")
    ),
    CheckConstraint(NAME_CHECK, name="templates_name_check"),
)

# Files that versions keep, by digest, so that every worker makes the same ones (decision 0026).
template_files = Table(
    "template_files",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("manifest", JSONB, nullable=False),  # path -> size, hash and run bit, or the link's target
    Column("archive", LargeBinary, nullable=False),
    _time("created_at", null=False),
    CheckConstraint("digest ~ '^sha256:[0-9a-f]{64}$'", name="template_files_digest_check"),
)

template_versions = Table(
    "template_versions",
    metadata,
    _uuid("id", pk=True),
    _uuid("template_id", "templates.id"),
    Column("number", Integer, nullable=False),
    Column("provisioner", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("source", JSONB, nullable=False),
    Column("files_digest", Text, ForeignKey("template_files.digest")),  # null: it keeps no files
    Column("hands_over", Boolean, nullable=False, server_default=text("true")),  # whether its driver acts at a claim
    _time("created_at", null=False),
    UniqueConstraint("template_id", "number"),
)

presets = Table(
    "presets",
    metadata,
    _uuid("id", pk=True),
    _uuid("template_version_id", "template_versions.id"),  # the last one that became active with this preset in it
    _uuid("template_id", "templates.id"),
    Column("name", Text, nullable=False),
    Column("desired_instances", Integer),  # null: no pool
    Column("expire_after", Interval),
    Column("timezone", Text),
    Column("is_default", Boolean, nullable=False, server_default=text("false")),
    Column("claim_parameters", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    _time("last_invalidated_at"),
    _time("limit_reset_at"),
    Column("last_pass", BigInteger, nullable=False, server_default=text("0")),
    _time("created_at", null=False),
    # A unique constraint, but one whose columns PostgreSQL does not take for a key: `apply` moves a preset to another
    # version, and a changed key would hold up every claim that refers to the preset meanwhile.
    ExcludeConstraint(
        ("template_version_id", "="), ("name", "="), using="btree", name="presets_template_version_id_name_excl"
    ),
    CheckConstraint(NAME_CHECK, name="presets_name_check"),
    CheckConstraint("desired_instances >= 0", name="presets_desired_instances_check"),
)

preset_parameters = Table(
    "preset_parameters",
    metadata,
    _uuid("preset_id", "presets.id", pk=True),
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

preset_schedules = Table(
    "preset_schedules",
    metadata,
    _uuid("preset_id", "presets.id", pk=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("cron", Text, nullable=False),
    Column("instances", Integer, nullable=False),
    CheckConstraint("instances >= 0", name="preset_schedules_instances_check"),
)

workspaces = Table(
    "workspaces",
    metadata,
    _uuid("id", pk=True),
    _uuid("organization_id", "organizations.id"),
    _uuid("owner_id", "users.id"),
    Column("name", Text, nullable=False),
    _uuid("template_id", "templates.id"),
    _uuid("template_version_id", "template_versions.id"),
    _uuid("preset_id", "presets.id", null=True),
    Column("autostart_schedule", Text),
    _time("next_start_at"),
    Column("ttl", Interval),
    _time("created_at", null=False),
    _time("last_used_at"),
    _time("claimed_at"),
    _time("deleted_at"),
    _time("abandoned_at"),  # set with deleted_at when nothing was destroyed: what is left is a person's to remove
    _uuid("claimable_preset_id", null=True),  # null: cannot be claimed
    _uuid("claim_build_id", null=True),  # id of the build that a claim will record; SQL has no uuid5
    _time("expires_at"),  # when it expires as a prebuild; null: never
    _time("next_action_at"),
    Column("host", Text),
    Column("address", Text),
    Column("resources", JSONB, nullable=False, server_default=text("'{}'")),
    # A copy of the latest build, so that a snapshot reads one table. Every statement that changes a build updates it.
    Column("latest_build", Integer, nullable=False, server_default=text("0")),
    Column("latest_transition", Text),
    Column("latest_status", Text),
    _time("latest_ended_at"),  # null: unfinished
    Column("previous_owners", ARRAY(Text), nullable=False, server_default=text("'{}'")),  # the most recent one last
    Column("kept", Boolean, nullable=False, server_default=text("false")),  # an operator keeps it as evidence
    Column("probe_failures", Integer, nullable=False, server_default=text("0")),  # failed probes in a row
    _time("probe_failed_at"),
    # Set when what exists under this id is or may be somebody else's. Then it is not claimed, counted or removed.
    _time("quarantined_at"),
    Column("quarantine_reason", Text),
    Index("workspaces_live_name_key", "owner_id", "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
    Index(
        "workspaces_claimable_idx",
        "claimable_preset_id",
        "created_at",
        "id",
        postgresql_where=text("claimable_preset_id IS NOT NULL"),
    ),
    Index(
        "workspaces_pool_idx",
        "preset_id",
        postgresql_where=text(f"owner_id = '{PREBUILDS_USER_ID}' AND deleted_at IS NULL"),
    ),
    Index("workspaces_deleted_idx", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
    Index("workspaces_next_action_idx", "next_action_at", postgresql_where=text("next_action_at IS NOT NULL")),
    CheckConstraint(NAME_CHECK, name="workspaces_name_check"),
    CheckConstraint(
        f"claimable_preset_id IS NULL OR (owner_id = '{PREBUILDS_USER_ID}' AND deleted_at IS NULL)",
        name="workspaces_claimable_is_unclaimed_check",
    ),
    CheckConstraint(
        "claimable_preset_id IS NULL OR quarantined_at IS NULL", name="workspaces_claimable_is_not_quarantined_check"
    ),
    CheckConstraint(
        "(claimable_preset_id IS NULL) = (claim_build_id IS NULL)", name="workspaces_claimable_has_build_id_check"
    ),
    CheckConstraint(
        f"(claimed_at IS NULL) OR (owner_id <> '{PREBUILDS_USER_ID}')", name="workspaces_claimed_has_owner_check"
    ),
    # Free space in each page lets claims and deletions update a row without new entries in unchanged indexes.
    postgresql_with={"fillfactor": "80"},
)

workspace_builds = Table(
    "workspace_builds",
    metadata,
    _uuid("id", pk=True),
    _uuid("workspace_id", "workspaces.id"),
    Column("number", Integer, nullable=False),
    Column("transition", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("status", Text, nullable=False, server_default=text("'pending'")),
    _uuid("initiator_id", "users.id"),
    _uuid("preset_id", "presets.id", null=True),
    _uuid("template_version_id", "template_versions.id"),
    Column("error", Text),
    Column("error_type", Text),
    Column("provisioner_state", JSONB),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    _time("attempt_scheduled_at"),
    Column("dispatches", Integer, nullable=False, server_default=text("0")),
    _time("next_dispatch_at"),
    _time("created_at", null=False),
    _time("started_at"),
    _time("completed_at"),
    UniqueConstraint("workspace_id", "number"),
    Index(
        "workspace_builds_one_active_key",
        "workspace_id",
        unique=True,
        postgresql_where=text("status IN ('running', 'canceling')"),
    ),
    Index("workspace_builds_one_waiting_key", "workspace_id", unique=True, postgresql_where=text("status = 'pending'")),
    Index("workspace_builds_outbox_idx", "next_dispatch_at", postgresql_where=text(UNFINISHED)),
    Index("workspace_builds_queue_idx", "initiator_id", "created_at", postgresql_where=text(UNFINISHED)),
    Index("workspace_builds_created_idx", "created_at"),
    Index(
        "workspace_builds_creations_idx",
        "preset_id",
        "created_at",
        postgresql_where=text("number = 1 AND status IN ('succeeded', 'failed')"),
    ),
    Index(
        "workspace_builds_failed_creations_idx",
        "preset_id",
        "created_at",
        postgresql_where=text("number = 1 AND status = 'failed'"),
    ),
    Index("workspace_builds_failed_idx", "preset_id", "completed_at", postgresql_where=text("status = 'failed'")),
    CheckConstraint("number >= 1", name="workspace_builds_number_check"),
    CheckConstraint("transition IN ('start', 'stop', 'delete')", name="workspace_builds_transition_check"),
    CheckConstraint("stage IN ('none', 'create', 'claim')", name="workspace_builds_stage_check"),
    CheckConstraint(
        "status IN ('pending', 'running', 'succeeded', 'failed', 'canceling', 'canceled')",
        name="workspace_builds_status_check",
    ),
    CheckConstraint(f"(completed_at IS NULL) = ({UNFINISHED})", name="workspace_builds_completed_when_finished_check"),
    # A claim is initiated by a person, never by the prebuilds user. This is the project's main promise.
    CheckConstraint(
        f"stage <> 'claim' OR initiator_id <> '{PREBUILDS_USER_ID}'", name="workspace_builds_claim_has_person_check"
    ),
)

# The claim parameters of a workspace, which every later build of it gets. The row is deleted with the workspace. There
# is no row when the claim had none.
claim_secrets = Table(
    "claim_secrets",
    metadata,
    _uuid("workspace_id", "workspaces.id", pk=True),
    Column("sealed", JSONB, nullable=False),  # encrypted by `prebuilds/settings/sealing.py`
)

claims = Table(
    "claims",
    metadata,
    Column("id", Text, primary_key=True),
    Column("request_hash", LargeBinary, nullable=False),
    # Who may see what became of the request: the keys of its people, and its preset (a path or an id) or template.
    Column("owner", Text),
    Column("initiator", Text),
    Column("target", Text),
    Column("token_id", Uuid),  # the token that it came with; null: none
    Column("outcome", Text),  # null: not decided yet
    Column("miss_reason", Text),
    _uuid("workspace_id", "workspaces.id", null=True),
    Column("answer", JSONB),
    _time("transferred_at"),  # when its workspace was transferred; from then on the answer is not given any more
    # A run is one run of the claim's workflow, with all its attempts. The row has the run for which the claim was last
    # decided, and whether that run was answered. Another run may take the claim over, unless it began before
    # `other_runs_after`, by Temporal's clock.
    Column("run", Text, nullable=False),
    Column("other_runs_after", DateTime(timezone=True), nullable=False),
    Column("run_answered", Boolean, nullable=False, server_default=text("false")),
    _time("created_at", null=False),
    _time("completed_at"),
    UniqueConstraint("workspace_id"),
    CheckConstraint("octet_length(id) BETWEEN 1 AND 200", name="claims_id_check"),
    CheckConstraint("outcome IN ('prebuilt', 'created', 'missed', 'refused')", name="claims_outcome_check"),
    CheckConstraint(
        "(workspace_id IS NOT NULL) = coalesce(outcome IN ('prebuilt', 'created'), false)", name="claims_winner_check"
    ),
)

# Claims that wait. A decided row stays until its workflow has read the answer.
claim_queue = Table(
    "claim_queue",
    metadata,
    Column("claim_id", Text, ForeignKey("claims.id"), primary_key=True),
    Column("position", BigInteger, Identity(), nullable=False),  # first come, first served
    Column("workflow_id", Text, nullable=False),
    _uuid("template_id", "templates.id"),
    Column("preset_name", Text, nullable=False),  # not the preset's id: a new version takes over the waiting claims
    _uuid("owner_id", "users.id"),
    _uuid("initiator_id", "users.id"),
    Column("request", JSONB, nullable=False),  # without parameters and claim parameters
    Column("secrets", JSONB),  # its claim parameters, encrypted; null: none, or decided
    Column("request_hash", LargeBinary, nullable=False),
    _time("queued_at", null=False),
    Column("deadline", DateTime(timezone=True), nullable=False),
    _time("decided_at"),  # null: waiting
    Column("refusal", Text),  # the type of the error that ended the wait; null: none did
    _time("looked_after_at", null=False),  # when the relay last checked its workflow
    Column("left_by", Text),  # who asked that it leaves; null: nobody did
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

# Operators' requests through Temporal. A row is written in the transaction of the effect, so that a late attempt finds
# it.
operator_requests = Table(
    "operator_requests",
    metadata,
    Column("run", Text, primary_key=True),
    Column("answer", JSONB),  # null: carried out, at least in part, and not answered yet
    _time("began_at", null=False),
    Index("operator_requests_began_idx", "began_at"),
)

build_logs = Table(
    "build_logs",
    metadata,
    _uuid("build_id", "workspace_builds.id", pk=True),
    # Each attempt has numbers of its own, so that a frozen attempt that wakes up overwrites no line of a later one.
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("line", Text, nullable=False),
    Index("build_logs_begun_idx", "at", postgresql_where=text("number = 1")),  # old logs are found by their first lines
)

resource_replacements = Table(
    "resource_replacements",
    metadata,
    _uuid("build_id", "workspace_builds.id", pk=True),
    Column("resource", Text, primary_key=True),
    _uuid("workspace_id", "workspaces.id"),
    Column("paths", ARRAY(Text), nullable=False),
    _time("created_at", null=False),
)

# Notifications for operators, with a row for each notifier.
notifications = Table(
    "notifications",
    metadata,
    _uuid("id", pk=True),
    Column("notifier", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    _uuid("build_id", "workspace_builds.id"),
    Column("body", JSONB, nullable=False),
    _time("created_at", null=False),
    Column("status", Text, nullable=False, server_default=text("'due'")),
    _time("due_at", null=False),  # while a sender holds the lease, the lease's end
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("error", Text),  # the last attempt's error
    _time("ended_at"),
    Index("notifications_due_idx", "due_at", postgresql_where=text("status = 'due'")),
    Index("notifications_given_up_idx", "ended_at", postgresql_where=text("status = 'given_up'")),
    CheckConstraint("notifier IN ('log', 'webhook')", name="notifications_notifier_check"),
    CheckConstraint("status IN ('due', 'sent', 'given_up')", name="notifications_status_check"),
    CheckConstraint("(status = 'due') = (ended_at IS NULL)", name="notifications_ended_check"),
)

settings = Table(
    "settings",
    metadata,
    Column("id", Boolean, primary_key=True, server_default=text("true")),
    Column("deployment_id", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    # Every new prebuild's id is derived from the epoch, so that after a restore a repeated pass number makes no id
    # twice.
    Column("epoch", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    Column("earlier_epochs", ARRAY(Uuid), nullable=False, server_default=text("'{}'")),
    _time("restore_found_at"),  # when a restore was noticed; from then on claims and passes stop
    Column("restore_found", Text),
    # The Temporal namespace that this database is bound to: its id, and its name for messages.
    Column("temporal_namespace_id", Text),
    Column("temporal_namespace", Text),
    # The key of the requests' hashes, encrypted like claims' secrets. The first worker makes it.
    Column("request_key", JSONB),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("paused_by", Text),
    Column("paused_reason", Text),
    _time("paused_at"),
    Column("loop", Text, nullable=False, server_default=text("'never_started'")),
    Column("loop_interval", Interval),
    Column("loop_number", BigInteger, nullable=False, server_default=text("0")),  # counts starts after a stop
    Column("stop_cause", Text),
    _time("loop_since", null=False),  # when `loop` was last set
    Column("passes", BigInteger, nullable=False, server_default=text("0")),
    _time("last_pass_at"),
    Column("rules", JSONB),  # the control worker's rules at the last pass
    _time("inventory_at", null=False),  # when a control worker last started an inventory
    CheckConstraint("id", name="settings_one_row_check"),
    CheckConstraint("loop IN ('never_started', 'running', 'stopped')", name="settings_loop_check"),
)

passes = Table(
    "passes",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    _time("started_at", null=False),
    _time("completed_at"),
    Column("presets", Integer, nullable=False),
    Column("presets_with_work", Integer, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    _time("at", null=False),
    Column("kind", Text, nullable=False),
    Column("actor", Text, nullable=False),
    _uuid("preset_id", null=True),
    _uuid("workspace_id", null=True),
    _uuid("build_id", null=True),
    Column("claim_id", Text),
    Column("data", JSONB, nullable=False, server_default=text("'{}'")),
    Index("events_preset_idx", "preset_id", "id", postgresql_where=text("preset_id IS NOT NULL")),
    Index("events_workspace_idx", "workspace_id", "id", postgresql_where=text("workspace_id IS NOT NULL")),
    Index("events_claim_idx", "claim_id", postgresql_where=text("claim_id IS NOT NULL")),
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
    Index(
        "events_of_all_idx",
        "id",
        postgresql_where=text(
            "preset_id IS NULL AND kind IN ('paused', 'resumed', 'loop_started', 'loop_stopped', 'applied')"
        ),
    ),
)

# The inventory's findings. A row is deleted when a later inspection does not find it again.
inventory_sightings = Table(
    "inventory_sightings",
    metadata,
    _uuid("workspace_id", pk=True),  # no foreign key, since an orphan may have no row
    Column("provisioner", Text, primary_key=True),
    Column("place", Text, primary_key=True),  # `@HOST`, or the queue of a driver that any host serves
    Column("finding", Text, nullable=False),
    Column("first_seen_at", DateTime(timezone=True), nullable=False),
    Column("last_seen_at", DateTime(timezone=True), nullable=False),
    Column("sightings", Integer, nullable=False),
    _time("told_at"),  # when an event about it was recorded
    CheckConstraint("finding IN ('orphan', 'vanished', 'contradicted')", name="inventory_sightings_finding_check"),
)
