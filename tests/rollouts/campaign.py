"""A rollout of a pool that is claimed from all the time, with its bounds read from the database's own history.

A trigger records, at each change of the pool, how many members are ready and how many there are. The check therefore
covers every state, and not only those that a test happens to read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from prebuilds.api import NoClaimablePrebuiltWorkspaces, StackUnreachable, StoreUnavailable
from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimResult
from prebuilds.store.engine import dsn_of
from prebuilds.vocabulary import PREBUILDS_USER_ID, OnEmpty
from tests.e2e.dev_stack import DevStack, until

ROLES = ("claims", "control", "provisioner")
AUDIT = f"""
    CREATE TABLE IF NOT EXISTS audit (
        at timestamptz NOT NULL, deletes int NOT NULL, ready int NOT NULL, total int NOT NULL);
    CREATE OR REPLACE FUNCTION audit_pool() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO audit
        SELECT clock_timestamp(),
               (SELECT count(*) FROM changed WHERE owner_id = '{PREBUILDS_USER_ID}' AND latest_transition = 'delete'
                                               AND latest_status = 'pending'),
               count(*) FILTER (WHERE claimable_preset_id IS NOT NULL),
               count(*) FILTER (WHERE latest_transition = 'start'
                                  AND latest_status IN ('pending', 'running', 'canceling', 'succeeded'))
          FROM workspaces WHERE owner_id = '{PREBUILDS_USER_ID}' AND deleted_at IS NULL;
        RETURN NULL;
    END $$;
    DROP TRIGGER IF EXISTS audit_update ON workspaces;
    DROP TRIGGER IF EXISTS audit_insert ON workspaces;
    CREATE TRIGGER audit_update AFTER UPDATE ON workspaces
        REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION audit_pool();
    CREATE TRIGGER audit_insert AFTER INSERT ON workspaces
        REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION audit_pool();
"""
BOUNDS = """
    WITH lead AS (
        SELECT max(completed_at - created_at) AS took FROM workspace_builds
         WHERE number = 1 AND status = 'succeeded' AND created_at >= $1
    ), steps AS (
        SELECT a.*, (SELECT count(*) FROM workspaces w, lead
                      WHERE w.claimed_at BETWEEN a.at - lead.took AND a.at AND w.claimed_at > w.created_at) AS claimed
          FROM audit a WHERE at >= $1
    )
    SELECT (SELECT took FROM lead) AS took, max(total) AS most, min(ready) AS least,
           count(*) FILTER (WHERE deletes > 0) AS deletions, min(ready + claimed) FILTER (WHERE deletes > 0) AS left
      FROM steps
"""
OPEN = "SELECT state, reason, from_number, to_number FROM rollouts ORDER BY started_at DESC LIMIT 1"


@dataclass
class Seen:
    """The outcomes of claims during one rollout."""

    claimed: list[ClaimResult] = field(default_factory=list)
    missed: int = 0
    retries: int = 0
    kills: int = 0


@dataclass(frozen=True)
class History:
    """The database's record of one rollout."""

    state: str
    reason: str | None
    most: int
    least_ready: int
    deletions: int
    """How many statements have deleted members."""
    left: int | None
    """The fewest ready members that one of them has left, with those claimed within the longest lead time before."""
    lead_s: float

    def __str__(self) -> str:
        why = "" if self.reason is None else f" ({self.reason})"
        return (
            f"{self.state}{why}; at most {self.most} members, at least {self.least_ready} ready;"
            f" {self.deletions} deletions, which left at least {self.left} ready or claimed within a lead time"
            f" (at most {self.lead_s:.1f} s)"
        )


async def watch(stack: DevStack) -> None:
    """Record the pool's history from now on."""
    connection = await asyncpg.connect(dsn_of(stack.facts["database_url"]))
    try:
        await connection.execute(AUDIT)
    finally:
        await connection.close()


async def roll(
    stack: DevStack, organization: str, *, rate: float, seed: int, kills: int = 0, until_state: str = "succeeded"
) -> tuple[Seen, History]:
    """Claim from the pool until its newest rollout has a state, with all workers killed *kills* times meanwhile.

    Args:
        rate: Claims a second; 0 for none.
    """
    rng, seen = random.Random(seed), Seen()  # noqa: S311 - to be repeated by its seed
    connection = await asyncpg.connect(dsn_of(stack.facts["database_url"]))
    began = await connection.fetchval("SELECT max(started_at) FROM rollouts")
    client = await PrebuildsClient.connect(stack.facts["temporal_address"])
    claiming = asyncio.create_task(_claim_all_the_time(client, organization, rate, seed, seen))
    killing = asyncio.create_task(_kill_all(stack, rng, kills, seen))
    try:
        deadline = time.monotonic() + 300
        while (row := await _one(connection, OPEN))["state"] != until_state:
            assert time.monotonic() < deadline, f"it is {row['state']} still: {row['reason']}"
            await asyncio.sleep(0.5)
        await killing
        found = await _one(connection, BOUNDS, began)
    finally:
        for task in (claiming, killing):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await connection.close()
    return seen, History(
        state=row["state"],
        reason=row["reason"],
        most=found["most"],
        least_ready=found["least"],
        deletions=found["deletions"],
        left=found["left"],
        lead_s=found["took"].total_seconds() if found["took"] else 0.0,
    )


async def _one(connection: Any, statement: str, *values: Any) -> Any:
    return await connection.fetchrow(statement, *values)


async def _claim_all_the_time(client: PrebuildsClient, organization: str, rate: float, seed: int, seen: Seen) -> None:
    if not rate:
        return
    async with asyncio.TaskGroup() as claims:
        n = 0
        while True:
            n += 1
            claims.create_task(_claim(client, organization, f"r{seed}-{n}", seen))
            await asyncio.sleep(1 / rate)


async def _claim(client: PrebuildsClient, organization: str, name: str, seen: Seen) -> None:
    request: dict[str, Any] = {
        "preset": f"{organization}/python/small",
        "owner": "alice",
        "name": name,
        "claim_id": f"{organization}-{name}",
        "on_empty": OnEmpty.FAIL,
    }
    for _ in range(60):
        try:
            seen.claimed.append(await client.claim(**request))
        except NoClaimablePrebuiltWorkspaces:
            seen.missed += 1
        except (StoreUnavailable, StackUnreachable):
            seen.retries += 1
            continue
        return
    raise AssertionError(f"claim {name} got no answer")


async def _kill_all(stack: DevStack, rng: random.Random, kills: int, seen: Seen) -> None:
    for _ in range(kills):
        await asyncio.sleep(rng.uniform(1, 4))
        for role in ROLES:
            with contextlib.suppress(ProcessLookupError, KeyError):
                os.kill(stack.facts["pids"][role], signal.SIGKILL)
        seen.kills += 1


def fill(stack: DevStack, organization: str, pool: int, *, version: int, build_s: float, works: bool = True) -> None:
    """Apply a version whose builds take *build_s*, or fail at once."""
    begins = f"sleep {build_s}; touch up; exec sleep 100000" if works else "exit 3"
    stack.apply(organization, pool, command=["sh", "-c", f"{begins} # version {version}"], ready={"file": "up"})


def wait_for_pool(stack: DevStack, organization: str, timeout_s: float = 120) -> None:
    def is_full() -> bool:
        rows = [row for row in stack.status()["presets"] if row["organization"] == organization]
        return all(row["eligible"] == row["desired"] and row["active"] == (row["desired"] > 0) for row in rows)

    until(is_full, "a full pool of one version", timeout_s, stack.log)
