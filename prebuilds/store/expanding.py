"""Carries out the steps of a schema version beside the workers that use the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import MigrationBlocked
from prebuilds.failures.database import has_waited_too_long, sqlstate
from prebuilds.store.schema_steps import RECORD, RECORD_KEY, BackfillStep, IndexStep, OnlineStep, ShortStep, Step

T = TypeVar("T")

LOCK_TIMEOUT_MS = 50
"""How long a step waits for its locks, in milliseconds. Everybody who comes after it waits for as long."""
STATEMENT_TIMEOUT_MS = 90
"""How long a statement that has its lock may work, the wait included, in milliseconds."""
PAUSE_FIRST_S, PAUSE_MAX_S = 0.2, 5.0
"""Between two tries: those who waited in the meantime work first."""
PATIENCE_S = 600.0
"""How long one step is tried, in seconds."""
BATCH_FIRST, BATCH_MAX = 100, 2000
BATCH_S = 0.03
"""How long a batch of a backfill should take, in seconds. A claim may wait for a row of it."""

BUILD_POLL_S = 1.0

# A server goes on building when the one who asked is gone.
READ_INDEX = text("""
    SELECT CASE WHEN i.indisvalid THEN 'valid' WHEN p.pid IS NOT NULL THEN 'being_built' ELSE 'invalid' END
      FROM pg_index i LEFT JOIN pg_stat_progress_create_index p ON p.index_relid = i.indexrelid
     WHERE i.indexrelid = to_regclass(:name)
""")
ALREADY_THERE = "42P07"
OLDEST_TRANSACTION = text("""
    SELECT pid, application_name, usename, state, xact_start FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start < now() - interval '1 second'
       AND backend_type = 'client backend' AND application_name <> current_setting('application_name')
     ORDER BY xact_start LIMIT 1
""")
RECORDED = text("SELECT name FROM schema_steps WHERE version = :version")


@dataclass(frozen=True, slots=True)
class Runner:
    """Carries out steps on one database."""

    engine: AsyncEngine
    version: str
    check: Callable[[], Awaitable[None]]
    """Called before each piece of work; raises when this migration must not go on."""
    tell: Callable[[str], None]
    """Told each step when it begins, and what it waits for."""
    patience_s: float = PATIENCE_S

    async def run(self, steps: Sequence[Step]) -> list[str]:
        """Carry out those steps that are not recorded as done, in order. Returns their names.

        Raises:
            MigrationBlocked: Others have held a lock for longer than `patience_s`. What is done stays done.
        """
        done = await recorded_steps(self.engine, self.version)
        todo = [step for step in steps if step.name not in done]
        for step in todo:
            self.tell(f"step {step.name}")
            match step:
                case ShortStep():
                    await self._patiently(step.name, partial(self._run_short, step))
                case IndexStep():
                    await self._build_index(step)
                case OnlineStep():
                    await self._run_online(step.statement)
                case BackfillStep():
                    await self._fill(step)
            if not isinstance(step, ShortStep):  # a short step records itself in its transaction
                await self.record(step.name)
        return [step.name for step in todo]

    async def record(self, name: str) -> None:
        """Record a step as done."""
        async with self.engine.begin() as connection:
            await connection.exec_driver_sql(RECORD.format(version=self.version, name=name))

    async def _run_short(self, step: ShortStep) -> None:
        """Carry out a step and record it, in one transaction and one message: its locks are held for no round trip,
        and not while this process stands still."""
        begin = f"BEGIN; {_limits(len(step.statements))}; INSERT INTO schema_steps (version, name)"
        script = f"{begin} VALUES ('{self.version}', '{step.name}'); {'; '.join(step.statements)}; COMMIT"
        async with self.engine.connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            try:
                await raw.execute(script)  # type: ignore[union-attr]  # asyncpg's connection
            except asyncpg.UniqueViolationError as error:
                await connection.invalidate()  # with the transaction that has failed
                if error.constraint_name != RECORD_KEY:
                    raise
                # Otherwise a migration that has taken this one for dead has done it.
            except BaseException:
                await connection.invalidate()
                raise

    async def _build_index(self, step: IndexStep) -> None:
        """Build an index, after what an earlier migration has left of it: a valid one is done, an invalid one only
        costs, and one that the server still builds for a client that is gone is waited for."""
        while True:
            async with self.engine.connect() as connection:
                state = await connection.scalar(READ_INDEX, {"name": step.name})
            if state == "valid":
                return
            if state == "being_built":
                self.tell(f"step {step.name}: the server still builds the index for an earlier migration")
                await self.check()
                await asyncio.sleep(BUILD_POLL_S)
            elif state == "invalid":
                self.tell(f"step {step.name}: an earlier build of the index was interrupted; it is dropped")
                await self._run_online(f"DROP INDEX CONCURRENTLY IF EXISTS {step.name}")
            else:
                try:
                    await self._run_online(step.statement)
                except DBAPIError as error:
                    if sqlstate(error) != ALREADY_THERE:
                        raise

    async def _run_online(self, statement: str) -> None:
        """Run a statement that waits for others, but for which nobody waits, so that no timeout applies."""
        await self.check()
        async with self.engine.connect() as plain:
            connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
            try:
                for setting in ("lock_timeout", "statement_timeout"):
                    await connection.exec_driver_sql(f"SET {setting} = 0")
                await connection.exec_driver_sql(statement)
            finally:
                await plain.invalidate()  # with its settings; and a build under way ends with its connection

    async def _fill(self, step: BackfillStep) -> None:
        after: Any = None
        size = BATCH_FIRST
        while True:
            begun = time.monotonic()
            last = await self._patiently(step.name, partial(self._fill_batch, step, after, size))
            if last is None:
                return
            after = last
            size = _next_size(size, time.monotonic() - begun)

    async def _fill_batch(self, step: BackfillStep, after: Any, size: int) -> Any:
        """Give the next *size* rows after the key *after* their values. Returns the last row's key; None at the end."""
        table, key = step.table, step.key
        since = "" if after is None else f"WHERE {key} > :after"
        batch = f"SELECT {key} AS key FROM {table} {since} ORDER BY {key} LIMIT {size}"
        until = text(f"SELECT key FROM ({batch}) AS batch ORDER BY key DESC LIMIT 1")
        within = f"{key} <= :last" + ("" if after is None else f" AND {key} > :after")
        keys = {} if after is None else {"after": after}
        async with self.engine.begin() as connection:
            for limit in _limits(1).split("; "):
                await connection.exec_driver_sql(limit)
            last = await connection.scalar(until, keys)
            if last is not None:
                change = text(f"UPDATE {table} SET {step.assign} WHERE {within} AND ({step.where})")
                await connection.execute(change, {**keys, "last": last})
        return last

    async def _patiently(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """Try *work* until it is not kept waiting."""
        begun, pause = time.monotonic(), PAUSE_FIRST_S
        while True:
            await self.check()
            try:
                return await work()
            except (DBAPIError, asyncpg.PostgresError) as error:
                if not has_waited_too_long(error):
                    raise
                blocker = await self._blocker()
                if time.monotonic() - begun + pause > self.patience_s:
                    raise MigrationBlocked(
                        f"the step {name} found no moment without other transactions on its table{blocker}",
                        remedy="let that transaction end, or end it, and run `prebuilds migrate` again",
                    ) from error
            self.tell(f"step {name}: others use its table{blocker}; it is tried again in {pause:.1f} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_MAX_S)

    async def _blocker(self) -> str:
        async with self.engine.connect() as connection:
            row = (await connection.execute(OLDEST_TRANSACTION)).one_or_none()
        if row is None:
            return ""
        who = f"{row.application_name or 'a program without a name'} of {row.usename}"
        return f" (the oldest transaction is that of {who}, pid {row.pid}, {row.state} since {row.xact_start:%H:%M:%S})"


def _limits(statements: int) -> str:
    """Bound how long a transaction of so many statements waits for its locks, and how long each of them takes."""
    wait_ms = max(LOCK_TIMEOUT_MS // statements, 5)  # a statement may wait with the locks of those before it
    return f"SET LOCAL lock_timeout = {wait_ms}; SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}"


async def recorded_steps(engine: AsyncEngine, version: str) -> set[str]:
    """Read the names of a version's steps that are done; empty when none ever was."""
    async with engine.connect() as connection:
        if await connection.scalar(text("SELECT to_regclass('schema_steps')")) is None:
            return set()
        return set(await connection.scalars(RECORDED, {"version": version}))


def _next_size(size: int, took_s: float) -> int:
    return max(1, min(BATCH_MAX, size * 2 if took_s < BATCH_S else size // 2))
