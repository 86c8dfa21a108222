"""Many claimers on a small pool, while workers are killed and database connections are cut at random.

Every caller must get an answer in the end, under its first claim id. Then the records are checked: no
workspace twice, no claim id twice, no owner changed, a process for each row, pools whole again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from temporalio.client import Client

from prebuilds.api import NoClaimablePrebuiltWorkspaces, StackUnreachable, StoreUnavailable
from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimResult
from prebuilds.store.engine import dsn_of
from prebuilds.vocabulary import OnEmpty
from tests.e2e.dev_stack import DevStack, until

QUICK = {"command": ["sleep", "infinity"], "ready": None}
ROLES = ("claims", "control", "provisioner")
BETWEEN_FAULTS_S = (0.1, 0.8)
ANSWER_TRIES_MAX = 60
CUT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE application_name LIKE 'prebuilds%' AND pid <> pg_backend_pid() AND random() < 0.3
"""


@dataclass
class Round:
    """The observations of one round."""

    claimed: list[ClaimResult] = field(default_factory=list)
    missed: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    retries: int = 0


async def storm(stack: DevStack, organization: str, claimers: int, seed: int) -> Round:
    """Run one round: all claimers run concurrently until each has an answer, with faults all the time."""
    rng, seen = random.Random(seed), Round()  # noqa: S311 - a schedule of faults, to be repeated by its seed
    client = PrebuildsClient(await Client.connect(stack.facts["temporal_address"], **_converter()))
    chaos = asyncio.create_task(_faults(stack, rng, seen))
    try:
        await asyncio.gather(*[_claimer(client, organization, seed, n, seen) for n in range(claimers)])
    finally:
        chaos.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await chaos
    return seen


def _converter() -> dict[str, Any]:
    from temporalio.contrib.pydantic import pydantic_data_converter

    return {"data_converter": pydantic_data_converter}


async def _claimer(client: PrebuildsClient, organization: str, seed: int, n: int, seen: Round) -> None:
    """Repeat a claim under its id while the stack cannot answer, as a service does."""
    name = f"s{seed}-{n}"
    for _ in range(ANSWER_TRIES_MAX):
        try:
            result = await client.claim(
                preset=f"{organization}/python/small",
                owner="alice" if n % 2 else "bob",
                name=name,
                claim_id=f"{organization}-{name}",
                on_empty=OnEmpty.FAIL,
            )
        except NoClaimablePrebuiltWorkspaces:
            seen.missed += 1
            return
        except (StoreUnavailable, StackUnreachable):
            seen.retries += 1
            continue
        seen.claimed.append(result)
        return
    raise AssertionError(f"claimer {n} of round {seed} got no answer")


async def _faults(stack: DevStack, rng: random.Random, seen: Round) -> None:
    while True:
        await asyncio.sleep(rng.uniform(*BETWEEN_FAULTS_S))
        if rng.random() < 0.5:
            role = rng.choice(ROLES)
            with contextlib.suppress(ProcessLookupError, KeyError):  # dead at this very moment
                os.kill(stack.facts["pids"][role], signal.SIGKILL)
                seen.faults[f"kill {role}"] += 1
        else:
            connection = await asyncpg.connect(dsn_of(stack.facts["database_url"]))
            seen.faults["cut connections"] += len(await connection.fetch(CUT))
            await connection.close()


async def check_books(stack: DevStack, seen: Round) -> None:
    """Check that the answers equal the records, and that no workspace was given twice."""
    workspaces = [str(r.workspace_id) for r in seen.claimed]
    assert len(set(workspaces)) == len(workspaces), "a workspace was given twice"
    connection = await asyncpg.connect(dsn_of(stack.facts["database_url"]))
    try:
        rows = await connection.fetch(
            "SELECT c.id, c.workspace_id::text, u.name FROM claims c JOIN workspaces w ON w.id = c.workspace_id"
            " JOIN users u ON u.id = w.owner_id WHERE c.id = ANY($1)",
            [r.claim_id for r in seen.claimed],
        )
        assert {(r.claim_id, str(r.workspace_id), r.owner) for r in seen.claimed} == {tuple(row) for row in rows}
        claimed_twice = "SELECT workspace_id FROM claims WHERE workspace_id IS NOT NULL GROUP BY 1 HAVING count(*) > 1"
        assert await connection.fetch(claimed_twice) == []
    finally:
        await connection.close()


def check_whole(stack: DevStack, organization: str, timeout_s: float = 120) -> None:
    """Wait until the pool has its size again and each row that should have a process has one."""
    stack.wait_whole(organization, timeout_s)

    def rows_and_processes_agree() -> bool:
        rows = {w["id"] for w in stack.all_workspaces() if w["status"] == "running"}
        return rows == set(stack.processes())

    until(rows_and_processes_agree, "a process for each row and a row for each process", timeout_s, stack.log)
