"""Tables of drills, and the user who claims for them."""

from __future__ import annotations

from prebuilds.store.schema_steps import IndexStep, ShortStep, Step

DRILL_USER, DRILL_USER_ID = "prebuilds-drill", "2c82fe37-eee5-5c8f-a39f-0ea2a9436730"

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
    # If a person already has this name, the system user is not created, and drills are skipped.
    ShortStep(
        "drill_user",
        (
            f"INSERT INTO users (id, name, key) VALUES ('{DRILL_USER_ID}', '{DRILL_USER}', '{DRILL_USER}') "
            "ON CONFLICT DO NOTHING",
        ),
    ),
    ShortStep("retention_of_drills", ("INSERT INTO retention (rule) VALUES ('drills') ON CONFLICT DO NOTHING",)),
    # A drill that could not claim has no build, and neither has a notification about it.
    ShortStep("notifications_of_drills", ("ALTER TABLE notifications ALTER build_id DROP NOT NULL",)),
)
"""Drills, their schedules, and the user who claims for them."""

REPEATED_DRILLS: tuple[Step, ...] = (
    IndexStep(
        "drills_requested_key",
        "drills (template_id, coalesce(wanted_preset, '')) WHERE requested_by IS NOT NULL AND ended_at IS NULL",
        unique=True,
    ),
)
"""A constraint: people can request only one drill of a target at a time."""
