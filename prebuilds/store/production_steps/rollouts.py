"""Tables of rollouts and canaries."""

from __future__ import annotations

from prebuilds.store.schema_steps import IndexStep, ShortStep, Step

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
"""Rollouts, which replace a pool's prebuilds step by step."""

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
"""Canaries, which try a new version on a share of each pool first."""

LEFT_VERSIONS: tuple[Step, ...] = (
    ShortStep(
        "left_versions",
        (
            "ALTER TABLE rollouts ADD COLUMN leaves text"
            " CONSTRAINT rollouts_leaves_check CHECK (leaves IN ('unfinished', 'failed'))",
        ),
    ),
)
"""A mark of rollouts that return from a version whose own rollout was unfinished or failed."""
