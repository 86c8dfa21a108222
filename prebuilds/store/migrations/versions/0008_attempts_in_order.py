"""When the attempt that is at work was scheduled, so that an older one that wakes up late does not overtake it"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE workspace_builds ADD COLUMN attempt_scheduled_at timestamptz")
