"""What claims read and write: limits, leases, checks of their rows, and indexes to find these rows later."""

from __future__ import annotations

from prebuilds.store.schema_steps import IndexStep, OnlineStep, ShortStep, Step

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

CLAIMS_EVENTS: tuple[Step, ...] = (
    IndexStep("events_lost_claim_idx", "events (claim_id) WHERE claim_id IS NOT NULL AND workspace_id IS NULL"),
)
"""An index of a claim's events that belong to no workspace. Other events of a claim are found by its workspace.

It replaces an index of all claim ids, which cost each claim 1 % of its time (decision 0050).
"""

PROMOTIONS: tuple[Step, ...] = (
    IndexStep(
        "workspace_builds_promotions_idx",
        "workspace_builds (preset_id, created_at DESC) WHERE number > 2 AND transition = 'start'"
        " AND stage IN ('claim', 'resume') AND status = 'succeeded'",
    ),
)
"""An index of builds that resumed paused prebuilds, to find how long they took. The condition on the number excludes
workspaces that were never paused: a claim's build is then the second one."""

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
"""Checks of two tables that every claim writes. They allow the same values as before, and pauses and resumes.

PostgreSQL parses a table's checks again for each statement that writes the table. Each of these checks has one constant
array in place of a list of constants, which saves a claim 5 % of its time (decision 0031).
"""


def cheaper_checks() -> tuple[Step, ...]:
    """Steps that replace the former checks by these."""
    steps: list[Step] = []
    for table, checks in CHEAPER_CHECKS.items():
        changes = [
            f"DROP CONSTRAINT IF EXISTS {name}, ADD CONSTRAINT {name} CHECK ({rule}) NOT VALID"
            for name, rule in checks.items()
        ]
        steps.append(ShortStep(f"cheaper_checks_of_{table}", (f"ALTER TABLE {table} {', '.join(changes)}",)))
        steps += [OnlineStep(f"valid_{name}", f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}") for name in checks]
    return tuple(steps)
