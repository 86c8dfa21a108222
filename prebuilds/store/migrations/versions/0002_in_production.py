"""What a deployment needs to be seen, secured and kept small over years."""

from __future__ import annotations

from pathlib import Path

from alembic import op

from prebuilds.store.schema_steps import CREATE_RECORDS, EXPANDED, RECORD, Step, function_steps

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FUNCTIONS: tuple[str, ...] = ()
"""The SQL functions that this version creates or replaces, in this order: each is a file of the folder `0002`."""

STEPS: tuple[Step, ...] = ()

EXPAND: tuple[Step, ...] = (*STEPS, *function_steps(Path(__file__).with_name("0002"), FUNCTIONS))
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
