"""The steps of a schema version: what is added to a database while workers use it.

A version's file in `migrations/versions/` lists its steps. `expanding.py` carries them out one by one, and records each
in the table `schema_steps`; a migration that was killed goes on with the first that is not recorded. So a step must
bear being begun again after it was done, but not recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

Kind = Literal["short", "index", "online", "backfill"]


@dataclass(frozen=True, slots=True)
class ShortStep:
    """Statements that lock a table against its users, in one transaction that takes less than 100 ms.

    They only change the catalog: a new table, a column that may be null or has a constant default, a constraint that
    is NOT VALID, a function. The database ends the transaction when it waits for a lock, or works, for too long, and it
    is tried again.
    """

    kind: ClassVar[Kind] = "short"
    name: str
    statements: tuple[str, ...]

    @property
    def at_once(self) -> tuple[str, ...]:
        """The statements for a database that nobody uses yet."""
        return self.statements


@dataclass(frozen=True, slots=True)
class IndexStep:
    """An index that is built while its table is written to. The step's name is the index's."""

    kind: ClassVar[Kind] = "index"
    name: str
    on: str
    """The text after `CREATE INDEX CONCURRENTLY name ON`: the table, its columns, and the condition."""
    unique: bool = False

    @property
    def statement(self) -> str:
        """The statement that makes the index."""
        return f"CREATE {'UNIQUE ' if self.unique else ''}INDEX CONCURRENTLY {self.name} ON {self.on}"

    @property
    def at_once(self) -> tuple[str, ...]:
        """The statements for a database that nobody uses yet, within a transaction."""
        return (self.statement.replace(" CONCURRENTLY", "", 1),)


@dataclass(frozen=True, slots=True)
class OnlineStep:
    """A statement that may take long, outside any transaction, and takes no lock that readers and writers wait for.

    Such as `ALTER TABLE ... VALIDATE CONSTRAINT` and `DROP INDEX CONCURRENTLY IF EXISTS`.
    """

    kind: ClassVar[Kind] = "online"
    name: str
    statement: str

    @property
    def at_once(self) -> tuple[str, ...]:
        """The statements for a database that nobody uses yet, within a transaction."""
        return (self.statement.replace(" CONCURRENTLY", "", 1),)


@dataclass(frozen=True, slots=True)
class BackfillStep:
    """Rows that get a value, a few hundred at a time, in the order of a unique key."""

    kind: ClassVar[Kind] = "backfill"
    name: str
    table: str
    key: str
    """A column with a unique index, not null."""
    assign: str
    """The text after `SET`."""
    where: str
    """Condition for rows that still need the step; false for a row that has it."""

    @property
    def at_once(self) -> tuple[str, ...]:
        """The statements for a database that nobody uses yet."""
        return (f"UPDATE {self.table} SET {self.assign} WHERE {self.where}",)


CREATE_RECORDS = """
    CREATE TABLE IF NOT EXISTS schema_steps (
        version text NOT NULL, name text NOT NULL, done_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT schema_steps_pkey PRIMARY KEY (version, name)
    )
"""
"""The table of the steps that are done, which is there before the first of them."""
RECORD_KEY = "schema_steps_pkey"
RECORD = "INSERT INTO schema_steps (version, name) VALUES ('{version}', '{name}') ON CONFLICT DO NOTHING"
EXPANDED = "expanded"
"""The name that is recorded when all steps are done that a version's workers need."""

Step = ShortStep | IndexStep | OnlineStep | BackfillStep


def function_steps(folder: Path, names: Sequence[str]) -> tuple[ShortStep, ...]:
    """Steps that create or replace SQL functions. Each name is a file `NAME.sql` in *folder*."""
    return tuple(ShortStep(f"function_{name}", (folder.joinpath(f"{name}.sql").read_text(),)) for name in names)
