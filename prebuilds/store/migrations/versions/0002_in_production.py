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

FUNCTIONS: tuple[str, ...] = ("check_people", "decide_claim")
"""The SQL functions that this version creates or replaces, in this order: each is a file of the folder `0002`."""

STEPS: tuple[Step, ...] = (
    ShortStep(
        "preset_demand",
        (
            """
            CREATE TABLE preset_demand (
                template_id uuid NOT NULL CONSTRAINT preset_demand_template_id_fkey REFERENCES templates (id),
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
                template_id uuid NOT NULL CONSTRAINT preset_sizes_template_id_fkey REFERENCES templates (id),
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

CHEAPER_CHECKS = {
    "claims": {
        "claims_outcome_check": "outcome = ANY ('{prebuilt,created,missed,refused}'::text[])",
        "claims_winner_check": (
            "(workspace_id IS NOT NULL) = coalesce(outcome = ANY ('{prebuilt,created}'::text[]), false)"
        ),
    },
    "workspace_builds": {
        "workspace_builds_transition_check": "transition = ANY ('{start,stop,delete}'::text[])",
        "workspace_builds_stage_check": "stage = ANY ('{none,create,claim}'::text[])",
        "workspace_builds_status_check": (
            "status = ANY ('{pending,running,succeeded,failed,canceling,canceled}'::text[])"
        ),
        "workspace_builds_completed_when_finished_check": (
            "(completed_at IS NULL) = (status = ANY ('{pending,running,canceling}'::text[]))"
        ),
    },
}
"""Checks of two tables that every claim writes. They say the same as before, each by one constant: PostgreSQL reads a
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


EXPAND: tuple[Step, ...] = (*STEPS, *cheaper_checks(), *function_steps(Path(__file__).with_name("0002"), FUNCTIONS))
"""What `prebuilds migrate` does beside workers of the release before, in this order. It only adds."""
CONTRACT: tuple[Step, ...] = ()
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
