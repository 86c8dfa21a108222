"""What a deployment needs to be seen, secured and kept small over years."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FUNCTIONS: tuple[str, ...] = ()
"""The SQL functions that this version creates or replaces, in this order: each is a file of the folder `0002`."""


def upgrade() -> None:
    for function in FUNCTIONS:
        op.execute(Path(__file__).with_name("0002").joinpath(f"{function}.sql").read_text())
