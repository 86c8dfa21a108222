"""Which attempt of a build is at work, by a number that each takes as it begins; it was a time within what it saved"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

CLEAN = """
    UPDATE workspace_builds SET provisioner_state = provisioner_state - 'prebuilds:attempt'
     WHERE provisioner_state IS NOT NULL
"""


def upgrade() -> None:
    op.execute("ALTER TABLE workspace_builds ADD COLUMN attempt integer NOT NULL DEFAULT 0")
    op.execute(CLEAN)
