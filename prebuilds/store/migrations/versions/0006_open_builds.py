"""Whether a build is still to be done, seen from within the statement that claims"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Not inlined, and volatile: so it sees what the function beside it in the same statement has written.
BUILD_IS_OPEN = """
    CREATE FUNCTION build_is_open_v1(p_build_id uuid) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        RETURN EXISTS (SELECT FROM workspace_builds WHERE id = p_build_id AND completed_at IS NULL);
    END
    $$
"""


def upgrade() -> None:
    op.execute(BUILD_IS_OPEN)
