"""A claim's replacements: each is a line of its build's log, one event lists all, and a claim counts once."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.store.claims import ClaimStore
from prebuilds.telemetry.metrics import METRICS
from prebuilds.vocabulary import BuildStatus, build_id_of
from tests.postgres.lifecycle_steps import claimed
from tests.postgres.log_steps import Telling, log_of, run, telling
from tests.rows import events

DISK = Replacement(resource="disk.home", paths=["owner", "tags.name"])
VM = Replacement(resource="vm.main", paths=["image"])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each measured end of a build: whether the counter of replacements increased."""
    seen: list[bool] = []

    def record_build(*_: Any, replaced: bool, **__: Any) -> None:
        seen.append(replaced)

    monkeypatch.setattr(METRICS, "record_build", record_build)
    return seen


def replacing(*replacements: Replacement, error: Exception | None = None) -> Telling:
    driver = telling("handed over", error=error)
    driver.replacements = list(replacements)
    return driver


async def test_each_replacement_is_a_line_of_the_claims_build(
    engine: AsyncEngine, store: ClaimStore, counted: list[bool]
) -> None:
    workspace_id = await claimed(engine, store, handed_over=False)
    build_id = build_id_of(workspace_id, 2)
    outcome = await run(engine, replacing(DISK, VM), build_id)
    assert outcome.replacements == [DISK, VM]
    assert await log_of(engine, build_id) == [
        "disk.home is replaced because of owner, tags.name",
        "vm.main is replaced because of image",
        "handed over",
    ]
    [(_, data)] = await events(engine, "resources_replaced")
    assert data == {"replacements": [DISK.model_dump(), VM.model_dump()]}
    assert counted == [True]


async def test_an_attempt_after_a_crash_counts_what_the_one_before_replaced_and_no_more(
    engine: AsyncEngine, store: ClaimStore, counted: list[bool]
) -> None:
    workspace_id = await claimed(engine, store, handed_over=False)
    build_id = build_id_of(workspace_id, 2)
    with pytest.raises(OSError, match="crash"):
        await run(engine, replacing(DISK, error=OSError("crash")), build_id)
    outcome = await run(engine, replacing(), build_id)  # nothing is left to replace
    assert outcome.replacements == [DISK]
    assert (await run(engine, replacing(), build_id)).replacements == [DISK], "asked once more, it has ended"
    assert counted == [True]
    assert len(await events(engine, "resources_replaced")) == 1


async def test_a_claim_whose_build_is_tried_again_counts_once(
    engine: AsyncEngine, store: ClaimStore, counted: list[bool]
) -> None:
    from prebuilds.store.lifecycle import retry_workspace

    workspace_id = await claimed(engine, store, handed_over=False)
    await run(engine, replacing(DISK, error=ProvisionFailed("no")), build_id_of(workspace_id, 2))
    retried = await retry_workspace(engine, str(workspace_id), "alice")
    assert retried.build_id == build_id_of(workspace_id, 3)
    outcome = await run(engine, replacing(DISK), retried.build_id)
    assert (outcome.status, outcome.replacements) == (BuildStatus.SUCCEEDED, [DISK])
    assert counted == [True, False]


async def test_a_claim_that_replaces_nothing_counts_nothing(
    engine: AsyncEngine, store: ClaimStore, counted: list[bool]
) -> None:
    workspace_id = await claimed(engine, store, handed_over=False)
    outcome = await run(engine, replacing(), build_id_of(workspace_id, 2))
    assert outcome.replacements == []
    assert counted == [False]
