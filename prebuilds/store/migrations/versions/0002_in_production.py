"""Schema version 0002: what production deployments need.

The largest groups of steps are in `prebuilds/store/production_steps/`. `EXPAND` has the order in which all of them run.
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

from prebuilds.store.production_steps.claims import CLAIMS_EVENTS, LEASES, LIMITS, PROMOTIONS, cheaper_checks
from prebuilds.store.production_steps.drills import DRILLS, REPEATED_DRILLS
from prebuilds.store.production_steps.retention import RETENTION
from prebuilds.store.production_steps.rollouts import CANARIES, LEFT_VERSIONS, ROLLOUTS
from prebuilds.store.schema_steps import (
    CREATE_RECORDS,
    EXPANDED,
    RECORD,
    IndexStep,
    ShortStep,
    Step,
    function_steps,
)

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FUNCTIONS: tuple[str, ...] = (
    *("check_people", "claim_paused", "lock_limits", "reached_limit", "admit_claim"),
    *("find_older_ready", "tell_version", "claim_older_paused", "lock_canary", "count_canary_claim"),
    *("claim_workspace", "answer_claim_run", "decide_claim", "try_claim", "begin_lease"),
)
"""The SQL functions that this version creates or replaces, in this order: each is a file in the folder `0002`."""

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
        # The column has the trace that recorded the row (`prebuilds/store/kept_traces.py`). A second statement sets the
        # default, so that existing rows are not rewritten.
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
"""Paused prebuilds, which a pool keeps in addition to the ready ones."""

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
"""Creations that start some time before a schedule's window."""

LEAST: tuple[Step, ...] = (
    ShortStep("least_of_windows", ("ALTER TABLE preset_schedules ADD COLUMN least boolean NOT NULL DEFAULT false",)),
)
"""Windows whose count is a minimum. Workers of the release before read it as the exact count."""

SHRINKING: tuple[Step, ...] = (ShortStep("sizes_asked", ("ALTER TABLE preset_sizes ADD COLUMN asked jsonb",)),)
"""The sizes that targets asked for lately. They delay the shrinking of a pool."""

SIZED_STANDBY: tuple[Step, ...] = (
    ShortStep(
        "sizes_paused",
        (
            "ALTER TABLE preset_sizes ADD COLUMN paused integer CONSTRAINT preset_sizes_paused_check"
            " CHECK (paused >= 0), ADD COLUMN paused_asked jsonb",
        ),
    ),
)
"""Counts of paused prebuilds that were chosen for targets, and the wanted ones that still hold them up."""

NEAR_MISSES: tuple[Step, ...] = (IndexStep("events_near_miss_idx", "events (id) WHERE kind = 'claim_near_miss'"),)

EXPAND: tuple[Step, ...] = (
    *STEPS,
    *RETENTION,
    *STANDBY,
    *READY_BY,
    *LEAST,
    *SHRINKING,
    *SIZED_STANDBY,
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
"""Steps of `prebuilds migrate`, in this order. They only add, since workers of the release before go on meanwhile."""
CONTRACT: tuple[Step, ...] = (ShortStep("events_claim_idx", ("DROP INDEX IF EXISTS events_claim_idx",)),)
"""Steps of `prebuilds migrate --finish`, after those workers have ended. They drop what only those workers need."""


def upgrade() -> None:
    """Run all steps in one transaction, in a database that nobody uses yet."""
    connection = op.get_bind()
    connection.exec_driver_sql(CREATE_RECORDS)
    for step in (*EXPAND, *CONTRACT):
        for statement in step.at_once:
            connection.exec_driver_sql(statement)
    for name in (*(step.name for step in (*EXPAND, *CONTRACT)), EXPANDED):
        connection.exec_driver_sql(RECORD.format(version=revision, name=name))
