"""What tables share: the names of their constraints, common columns, and rules that several of them have."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, ForeignKey, MetaData, Text, Uuid, text

from prebuilds.vocabulary import NAME_LENGTH_MAX, NAME_PATTERN
from prebuilds.vocabulary.owners import OWNER_LENGTH_MAX

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
    }
)

UNFINISHED = "status IN ('pending', 'running', 'canceling')"
NAME_CHECK = f"name ~ '^{NAME_PATTERN.pattern}$' AND length(name) <= {NAME_LENGTH_MAX}"
OWNER_CHECK = f"name ~ '^[^/[:space:][:cntrl:]]+$' AND length(name) <= {OWNER_LENGTH_MAX} AND name NOT IN ('.', '..')"
NOW = text("now()")
OFTEN_VACUUMED = {"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_analyze_scale_factor": "0.02"}
"""Storage of a table whose rows are updated and removed."""
APPENDED = {"autovacuum_vacuum_scale_factor": "0.01", "autovacuum_vacuum_insert_scale_factor": "0.05"}
"""Storage of a table whose rows are hardly updated, and removed the oldest first."""


def one_of(column: str, *values: str) -> str:
    """A condition of a check: the column has one of these values, or is null.

    PostgreSQL reads a check anew for each statement that writes the table. It reads one constant array in half the time
    of an `IN` list, which it keeps as an expression for each value.
    """
    return f"{column} = ANY ('{{{','.join(values)}}}'::text[])"


def uuid_column(name: str, references: str | None = None, *, null: bool = False, pk: bool = False) -> Column[object]:
    """A UUID, not null by default. *references* is `table.column`; None means no foreign key."""
    if references is None:
        return Column(name, Uuid, nullable=null, primary_key=pk)
    return Column(name, Uuid, ForeignKey(references), nullable=null, primary_key=pk)


def traceparent_column() -> Column[object]:
    """The trace that the inserting transaction belongs to (`prebuilds/store/kept_traces.py`); null: none."""
    default = text("nullif(current_setting('prebuilds.traceparent', true), '')")
    return Column("traceparent", Text, server_default=default)


def time_column(name: str, *, null: bool = True) -> Column[object]:
    """A time with its zone. One that is not null is the transaction's time by default."""
    return Column(name, DateTime(timezone=True), nullable=null, server_default=None if null else NOW)
