"""What a deployment needs to be seen, secured and kept small over years."""

from __future__ import annotations

from pathlib import Path

from alembic import op

from prebuilds.store.schema_steps import (
    CREATE_RECORDS,
    EXPANDED,
    RECORD,
    IndexStep,
    OnlineStep,
    ShortStep,
    Step,
    function_steps,
)

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DRILL_USER, DRILL_USER_ID = "prebuilds-drill", "2c82fe37-eee5-5c8f-a39f-0ea2a9436730"

FUNCTIONS: tuple[str, ...] = (
    *("check_people", "claim_paused", "lock_limits", "reached_limit", "admit_claim"),
    *("find_older_ready", "tell_version", "claim_older_paused", "lock_canary", "count_canary_claim"),
    *("claim_workspace", "answer_claim_run", "decide_claim", "try_claim", "begin_lease"),
)
"""The SQL functions that this version creates or replaces, in this order: each is a file of the folder `0002`."""

STEPS: tuple[Step, ...] = (
    ShortStep(
        "preset_demand",
        (
            """
            CREATE TABLE preset_demand (
                template_id uuid NOT NULL CONSTRAINT preset_demand_template_id_fkey
                    REFERENCES templates (id) ON DELETE CASCADE,
                preset_name text NOT NULL,
                minute timestamptz NOT NULL,
                claims integer[] NOT NULL,
                hits integer NOT NULL,
                CONSTRAINT preset_demand_pkey PRIMARY KEY (template_id, preset_name, minute),
                CONSTRAINT preset_demand_claims_check CHECK (cardinality(claims) = 6)
            )
            """,
            """
            CREATE TABLE demand_progress (
                id boolean NOT NULL DEFAULT true,
                event_id bigint NOT NULL DEFAULT 0,
                CONSTRAINT demand_progress_pkey PRIMARY KEY (id),
                CONSTRAINT demand_progress_one_row_check CHECK (id)
            )
            """,
            "INSERT INTO demand_progress DEFAULT VALUES",
        ),
    ),
    ShortStep(
        "preset_sizes",
        (
            """
            CREATE TABLE preset_sizes (
                template_id uuid NOT NULL CONSTRAINT preset_sizes_template_id_fkey
                    REFERENCES templates (id) ON DELETE CASCADE,
                preset_name text NOT NULL,
                size integer,
                rule jsonb,
                chosen_for jsonb,
                outcome jsonb,
                lead_seconds double precision,
                chosen_at timestamptz,
                sized_at timestamptz,
                CONSTRAINT preset_sizes_pkey PRIMARY KEY (template_id, preset_name),
                CONSTRAINT preset_sizes_size_check CHECK (size >= 0)
            )
            """,
            "ALTER TABLE presets ADD COLUMN target jsonb, ADD COLUMN cost_per_hour double precision",
        ),
    ),
    IndexStep("events_pool_resized_idx", "events (preset_id, id) WHERE kind = 'pool_resized'"),
    *(
        # The trace in which it was recorded (`prebuilds/store/kept_traces.py`). The default is set afterwards, so that
        # existing rows are not rewritten.
        ShortStep(
            f"traces_of_{table}",
            (
                f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS traceparent text",
                f"ALTER TABLE {table} ALTER traceparent"
                " SET DEFAULT nullif(current_setting('prebuilds.traceparent', true), '')",
            ),
        )
        for table in ("workspace_builds", "claim_queue")
    ),
)

STANDBY: tuple[Step, ...] = (
    ShortStep(
        "standby",
        (
            """
            ALTER TABLE presets ADD COLUMN standby_paused integer NOT NULL DEFAULT 0
                CONSTRAINT presets_standby_paused_check CHECK (standby_paused >= 0)
            """,
            "ALTER TABLE workspaces ADD COLUMN resume_build_id uuid",
        ),
    ),
    IndexStep("presets_standby_idx", "presets (id) WHERE standby_paused > 0"),
    IndexStep("workspaces_paused_idx", "workspaces (preset_id, created_at, id) WHERE resume_build_id IS NOT NULL"),
)
"""Paused prebuilds beside the ready ones."""

READY_BY: tuple[Step, ...] = (
    ShortStep(
        "ready_by",
        (
            "ALTER TABLE presets ADD COLUMN ready_by boolean NOT NULL DEFAULT false",
            "ALTER TABLE preset_sizes ADD COLUMN head_start_seconds double precision",
        ),
    ),
    IndexStep("events_head_start_changed_idx", "events (preset_id, id) WHERE kind = 'head_start_changed'"),
)
"""The time before a schedule's window at which its creations start."""

LEAST: tuple[Step, ...] = (
    ShortStep("least_of_windows", ("ALTER TABLE preset_schedules ADD COLUMN least boolean NOT NULL DEFAULT false",)),
)
"""Windows whose count is a minimum. The release before takes it as the exact count."""

ROLLOUTS: tuple[Step, ...] = (
    ShortStep(
        "rollouts",
        (
            """
            CREATE TABLE rollouts (
                id uuid NOT NULL CONSTRAINT rollouts_pkey PRIMARY KEY,
                template_id uuid NOT NULL CONSTRAINT rollouts_template_id_fkey
                    REFERENCES templates (id) ON DELETE CASCADE,
                from_version_id uuid CONSTRAINT rollouts_from_version_id_fkey
                    REFERENCES template_versions (id) ON DELETE SET NULL,
                to_version_id uuid CONSTRAINT rollouts_to_version_id_fkey
                    REFERENCES template_versions (id) ON DELETE SET NULL,
                from_number integer NOT NULL,
                to_number integer NOT NULL,
                from_presets uuid[] NOT NULL,
                policy jsonb NOT NULL,
                state text NOT NULL DEFAULT 'running',
                reason text,
                progress integer NOT NULL DEFAULT 0,
                started_by text NOT NULL,
                started_at timestamptz NOT NULL DEFAULT now(),
                ended_at timestamptz,
                CONSTRAINT rollouts_state_check CHECK (
                    state IN ('running', 'paused', 'failed', 'succeeded', 'superseded', 'undone'))
            )
            """,
            "ALTER TABLE templates ADD COLUMN rollout jsonb",
            "CREATE UNIQUE INDEX rollouts_open_key ON rollouts (template_id)"
            " WHERE state IN ('running', 'paused', 'failed')",
            "CREATE INDEX rollouts_template_idx ON rollouts (template_id, started_at DESC)",
        ),
    ),
    IndexStep("presets_name_idx", "presets (template_id, name)"),
)
"""Rollouts, which replace pools step by step."""

CANARIES: tuple[Step, ...] = (
    ShortStep(
        "canaries",
        (
            "ALTER TABLE rollouts ADD COLUMN canary_state text"
            " CONSTRAINT rollouts_canary_state_check CHECK (canary_state IN ('running', 'passed', 'failed', 'ended'))",
            "ALTER TABLE presets ADD COLUMN canary_rollout_id uuid",
            """
            CREATE TABLE canary_claims (
                rollout_id uuid NOT NULL CONSTRAINT canary_claims_rollout_id_fkey
                    REFERENCES rollouts (id) ON DELETE CASCADE,
                preset_id uuid NOT NULL,
                older_preset_id uuid NOT NULL,
                claims integer NOT NULL DEFAULT 0,
                new_claims integer NOT NULL DEFAULT 0,
                CONSTRAINT canary_claims_pkey PRIMARY KEY (rollout_id, preset_id)
            )
            """,
        ),
    ),
)
"""Canaries: a share of each pool tries a new version first."""

LEFT_VERSIONS: tuple[Step, ...] = (
    ShortStep(
        "left_versions",
        (
            "ALTER TABLE rollouts ADD COLUMN leaves text"
            " CONSTRAINT rollouts_leaves_check CHECK (leaves IN ('unfinished', 'failed'))",
        ),
    ),
)
"""Marks rollouts that lead back from a version that was never rolled out completely."""

SHRINKING: tuple[Step, ...] = (ShortStep("sizes_asked", ("ALTER TABLE preset_sizes ADD COLUMN asked jsonb",)),)
"""Sizes that still hold a pool's size up."""
NEAR_MISSES: tuple[Step, ...] = (IndexStep("events_near_miss_idx", "events (id) WHERE kind = 'claim_near_miss'"),)

CHEAPER_CHECKS = {
    "claims": {
        "claims_outcome_check": "outcome = ANY ('{prebuilt,created,missed,refused}'::text[])",
        "claims_winner_check": (
            "(workspace_id IS NOT NULL) = coalesce(outcome = ANY ('{prebuilt,created}'::text[]), false)"
        ),
    },
    "workspace_builds": {
        "workspace_builds_transition_check": "transition = ANY ('{start,stop,pause,delete}'::text[])",
        "workspace_builds_stage_check": "stage = ANY ('{none,create,resume,claim}'::text[])",
        "workspace_builds_status_check": (
            "status = ANY ('{pending,running,succeeded,failed,canceling,canceled}'::text[])"
        ),
        "workspace_builds_completed_when_finished_check": (
            "(completed_at IS NULL) = (status = ANY ('{pending,running,canceling}'::text[]))"
        ),
    },
}
"""Checks of two tables that every claim writes. They say the same as before, each by one constant
(pauses and resumes are new): PostgreSQL reads a
check anew for each statement that writes the table, and this saves a claim 5 % of its time (decision 0031)."""


def cheaper_checks() -> tuple[Step, ...]:
    """Steps that put these checks in the place of the ones before."""
    steps: list[Step] = []
    for table, checks in CHEAPER_CHECKS.items():
        changes = [
            f"DROP CONSTRAINT IF EXISTS {name}, ADD CONSTRAINT {name} CHECK ({rule}) NOT VALID"
            for name, rule in checks.items()
        ]
        steps.append(ShortStep(f"cheaper_checks_of_{table}", (f"ALTER TABLE {table} {', '.join(changes)}",)))
        steps += [OnlineStep(f"valid_{name}", f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}") for name in checks]
    return tuple(steps)


_OFTEN = "autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02"
_APPENDED = "autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_insert_scale_factor = 0.05"
# A claim's new entry is the same as the one before it. When its page is full, PostgreSQL looks there for entries whose
# rows are gone. A page of merged entries has up to 1,300 of them, and looking at all costs a claim a tenth of its time.
_EACH_APART = "WITH (deduplicate_items = off)"
RETENTION: tuple[Step, ...] = (
    ShortStep(
        "retention",
        (
            """
            CREATE TABLE retention (
                rule text NOT NULL,
                next_at timestamptz NOT NULL DEFAULT now(),
                round_began_at timestamptz NOT NULL DEFAULT now(),
                walked_at timestamptz,
                walked_id uuid,
                removed_event bigint,
                CONSTRAINT retention_pkey PRIMARY KEY (rule)
            )
            """,
            # What the release before has removed is not recorded: it is below the oldest event that is left.
            """
            INSERT INTO retention (rule, removed_event)
            SELECT rule, CASE rule WHEN 'events' THEN (SELECT min(id) - 1 FROM events) END
              FROM unnest(ARRAY['logs', 'workspaces', 'builds', 'misses', 'events', 'notifications', 'versions',
                                'tokens', 'sign_in_links', 'requests', 'demand']) AS r (rule)
            """,
        ),
    ),
    # A claim that has won keeps its row, and its workspace's goes.
    ShortStep("claims_without_workspaces", ("ALTER TABLE claims DROP CONSTRAINT claims_workspace_id_fkey",)),
    # A build's preset and version are its workspace's, which has the same foreign keys (decision 0050).
    *(
        ShortStep(f"builds_without_{key}", (f"ALTER TABLE workspace_builds DROP CONSTRAINT workspace_builds_{key}",))
        for key in ("preset_id_fkey", "template_version_id_fkey")
    ),
    # The tables that grow are vacuumed by hundredths of them: a fifth of a year's rows is much too late.
    OnlineStep("workspaces_vacuum", f"ALTER TABLE workspaces SET ({_OFTEN})"),
    OnlineStep("workspace_builds_vacuum", f"ALTER TABLE workspace_builds SET ({_OFTEN})"),
    OnlineStep("claims_vacuum", f"ALTER TABLE claims SET ({_APPENDED})"),
    OnlineStep("events_vacuum", f"ALTER TABLE events SET ({_APPENDED})"),
    OnlineStep("build_logs_vacuum", f"ALTER TABLE build_logs SET ({_APPENDED})"),
    IndexStep("workspaces_live_idx", "workspaces (preset_id, created_at, id) WHERE deleted_at IS NULL"),
    IndexStep("workspaces_preset_idx", f"workspaces (preset_id) {_EACH_APART}"),
    IndexStep("workspaces_places_idx", f"workspaces (template_version_id, host, deleted_at DESC) {_EACH_APART}"),
    IndexStep("workspaces_released_name_idx", "workspaces (owner_id, name, deleted_at) WHERE deleted_at IS NOT NULL"),
    IndexStep("workspace_builds_version_idx", "workspace_builds (template_version_id, created_at DESC, id)"),
    IndexStep("workspace_builds_initiator_idx", "workspace_builds (initiator_id, created_at DESC, id)"),
    IndexStep(
        "workspace_builds_ended_badly_idx",
        "workspace_builds (created_at DESC, id) WHERE status IN ('failed', 'canceled')",
    ),
    IndexStep("claims_without_workspace_idx", "claims (created_at) WHERE workspace_id IS NULL"),
    IndexStep("events_restored_idx", "events (id) WHERE kind = 'restored'"),
    IndexStep("notifications_build_idx", "notifications (build_id)"),
    IndexStep("notifications_ended_idx", "notifications (ended_at) WHERE ended_at IS NOT NULL"),
    IndexStep("resource_replacements_workspace_idx", "resource_replacements (workspace_id)"),
    IndexStep("preset_demand_minute_idx", "preset_demand (minute)"),
)
"""What keeps every table small, and every list quick."""

LIMITS: tuple[Step, ...] = (
    ShortStep(
        "max_concurrent",
        (
            """
            ALTER TABLE presets ADD COLUMN max_concurrent integer
                CONSTRAINT presets_max_concurrent_check CHECK (max_concurrent > 0)
            """,
        ),
    ),
    ShortStep("organization_limits", ("ALTER TABLE organizations ADD COLUMN limits jsonb",)),
    ShortStep(
        "recent_claims",
        (
            """
            CREATE TABLE recent_claims (
                organization_id uuid NOT NULL CONSTRAINT recent_claims_organization_id_fkey
                    REFERENCES organizations (id),
                claim_id text NOT NULL,
                asked_at timestamptz NOT NULL,
                CONSTRAINT recent_claims_pkey PRIMARY KEY (organization_id, claim_id)
            )
            """,
            "CREATE INDEX recent_claims_asked_idx ON recent_claims (organization_id, asked_at)",
        ),
    ),
)
"""Limits of presets and organizations."""

LEASES: tuple[Step, ...] = (
    ShortStep(
        "workspace_leases",
        (
            """
            ALTER TABLE workspaces ADD COLUMN IF NOT EXISTS lease interval,
                ADD COLUMN IF NOT EXISTS lease_until timestamptz, ADD COLUMN IF NOT EXISTS lease_told_at timestamptz
            """,
        ),
    ),
)
"""Leases: a workspace is released unless its caller renews it."""

DRILLS: tuple[Step, ...] = (
    ShortStep(
        "drills",
        (
            "ALTER TABLE templates ADD COLUMN drill jsonb",
            """
            CREATE TABLE drill_schedules (
                template_id uuid NOT NULL CONSTRAINT drill_schedules_template_id_fkey
                    REFERENCES templates (id) ON DELETE CASCADE,
                next_at timestamptz NOT NULL,
                since timestamptz NOT NULL DEFAULT now(),
                CONSTRAINT drill_schedules_pkey PRIMARY KEY (template_id)
            )
            """,
            "CREATE INDEX drill_schedules_next_at_idx ON drill_schedules (next_at)",
            """
            CREATE TABLE drills (
                id uuid NOT NULL CONSTRAINT drills_pkey PRIMARY KEY,
                template_id uuid NOT NULL CONSTRAINT drills_template_id_fkey
                    REFERENCES templates (id) ON DELETE CASCADE,
                due_at timestamptz NOT NULL,
                created_at timestamptz NOT NULL DEFAULT now(),
                next_dispatch_at timestamptz,
                requested_by text,
                wanted_preset text,
                preset_id uuid,
                preset_name text,
                template_version_id uuid,
                workspace_id uuid,
                build_id uuid,
                claimed_at timestamptz,
                usable_seconds double precision,
                outcome text,
                stage text,
                reason text,
                evidence text[] NOT NULL DEFAULT '{}',
                ended_at timestamptz,
                CONSTRAINT drills_outcome_check CHECK (outcome = ANY ('{succeeded,failed,skipped}'::text[])),
                CONSTRAINT drills_stage_check CHECK (stage = ANY ('{claim,build,ready,check,release}'::text[])),
                CONSTRAINT drills_ended_check CHECK ((outcome IS NULL) = (ended_at IS NULL))
            )
            """,
            "CREATE UNIQUE INDEX drills_due_key ON drills (template_id, due_at) WHERE requested_by IS NULL",
            "CREATE INDEX drills_template_idx ON drills (template_id, created_at, id)",
            "CREATE INDEX drills_open_idx ON drills (next_dispatch_at) WHERE ended_at IS NULL",
            "CREATE INDEX drills_ended_idx ON drills (ended_at) WHERE ended_at IS NOT NULL",
        ),
    ),
    # If a person has this name already, the system user is not created, and drills are skipped.
    ShortStep(
        "drill_user",
        (
            f"INSERT INTO users (id, name, key) VALUES ('{DRILL_USER_ID}', '{DRILL_USER}', '{DRILL_USER}') "
            "ON CONFLICT DO NOTHING",
        ),
    ),
    ShortStep("retention_of_drills", ("INSERT INTO retention (rule) VALUES ('drills') ON CONFLICT DO NOTHING",)),
    # A notification about a drill that could not claim has no build.
    ShortStep("notifications_of_drills", ("ALTER TABLE notifications ALTER build_id DROP NOT NULL",)),
)
"""Drills, and the user who claims for them."""

REPEATED_DRILLS: tuple[Step, ...] = (
    IndexStep(
        "drills_requested_key",
        "drills (template_id, coalesce(wanted_preset, '')) WHERE requested_by IS NOT NULL AND ended_at IS NULL",
        unique=True,
    ),
)
"""At most one running drill of each target that people have requested."""

CLAIMS_EVENTS: tuple[Step, ...] = (
    IndexStep("events_lost_claim_idx", "events (claim_id) WHERE claim_id IS NOT NULL AND workspace_id IS NULL"),
)
"""Finds a claim's events that belong to no workspace; the others are found by the workspace. It replaces an index of
all claim ids, which cost each claim a hundredth of its time (decision 0050)."""

PROMOTIONS: tuple[Step, ...] = (
    IndexStep(
        "workspace_builds_promotions_idx",
        "workspace_builds (preset_id, created_at DESC) WHERE number > 2 AND transition = 'start'"
        " AND stage IN ('claim', 'resume') AND status = 'succeeded'",
    ),
)
"""Finds how long paused prebuilds took until they were ready again. Without a pause, a claim's build is the workspace's
second."""

EXPAND: tuple[Step, ...] = (
    *STEPS,
    *RETENTION,
    *STANDBY,
    *READY_BY,
    *LEAST,
    *SHRINKING,
    *NEAR_MISSES,
    *LIMITS,
    *LEASES,
    *DRILLS,
    *REPEATED_DRILLS,
    *ROLLOUTS,
    *CANARIES,
    *LEFT_VERSIONS,
    *CLAIMS_EVENTS,
    *PROMOTIONS,
    *cheaper_checks(),
    *function_steps(Path(__file__).with_name("0002"), FUNCTIONS),
)
"""What `prebuilds migrate` does beside workers of the release before, in this order. It only adds."""
CONTRACT: tuple[Step, ...] = (ShortStep("events_claim_idx", ("DROP INDEX IF EXISTS events_claim_idx",)),)
"""What `prebuilds migrate --finish` does when those workers have ended: drops what only they need."""


def upgrade() -> None:
    """Make all of it in one transaction, in a database that nobody uses yet."""
    connection = op.get_bind()
    connection.exec_driver_sql(CREATE_RECORDS)
    for step in (*EXPAND, *CONTRACT):
        for statement in step.at_once:
            connection.exec_driver_sql(statement)
    for name in (*(step.name for step in (*EXPAND, *CONTRACT)), EXPANDED):
        connection.exec_driver_sql(RECORD.format(version=revision, name=name))
