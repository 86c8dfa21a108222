"""A workspace whose deletion failed is abandoned: its name is free, and its leftovers are reported."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from prebuilds.api import InvalidInput, WorkspaceNotFound
from prebuilds.background.dispatch import Dispatcher
from prebuilds.cli.claims import _describe_abandoned
from prebuilds.operations.context import Context
from prebuilds.operations.facade import Operations
from prebuilds.operations.requests import carry_out
from prebuilds.payloads import OperatorRequest
from prebuilds.settings import Settings
from prebuilds.store.actions import take_due_actions
from prebuilds.store.build_begin import begin_build, save_state
from prebuilds.store.claims import ClaimStore
from prebuilds.store.inventory import Place, read_recorded
from prebuilds.store.inventory_findings import read_removal
from prebuilds.store.workspaces import show_workspace
from prebuilds.views import AbandonResult
from prebuilds.vocabulary import build_id_of, build_workflow_id
from prebuilds.vocabulary.actors import Actor
from tests.builders import find_preset
from tests.postgres.lifecycle_steps import DEV, FAILED, claimed, let_pass, row_of, run, secrets_of
from tests.postgres.pool_steps import Workflows, claim, make_ready, workspace_ids
from tests.rows import do, events, one

OPS = Actor("ops")
LEFT = {"vm": "i-0123", "region": "eu"}
CREATION, DELETION, REPEAT = 1, 3, 4
"""Builds of the workspace; the second one hands it over."""


@pytest.fixture
def workflows() -> Workflows:
    return Workflows()


@pytest.fixture
async def operations(engine: AsyncEngine, workflows: Workflows) -> AsyncIterator[Operations]:
    dispatcher = Dispatcher(engine, cast("Client", workflows))
    yield Operations(Context(engine, cast("Client", workflows), dispatcher, Settings()))
    await dispatcher.drain()


@pytest.fixture
async def dev(engine: AsyncEngine, store: ClaimStore) -> UUID:
    """alice/dev, running, with resources and a claim's secret."""
    dev = await claimed(engine, store, claim_parameters={"token": "t"})
    await do(
        engine, "UPDATE workspaces SET resources = CAST(:r AS jsonb), host = 'h1'", r='{"vm": "i-0123", "region": "eu"}'
    )
    return dev


async def refused(operations: Operations, workspace: str = DEV) -> str:
    with pytest.raises(InvalidInput) as refusal:
        await operations.workspaces.abandon(OPS, workspace)
    assert list(refusal.value.details) == ["workspace"]
    return str(refusal.value)


async def test_abandoning_a_failed_deletion_frees_the_name_and_lists_the_leftovers(
    engine: AsyncEngine, store: ClaimStore, operations: Operations, workflows: Workflows, dev: UUID
) -> None:
    await operations.workspaces.release(OPS, DEV)
    deletion = build_id_of(dev, DELETION)
    await do(
        engine, "UPDATE workspace_builds SET provisioner_state = CAST(:s AS jsonb) WHERE number < 3", s='{"old": 1}'
    )
    await begin_build(engine, deletion)
    await save_state(engine, deletion, {"state": 1}, 1)
    await run(engine, dev, FAILED)
    await let_pass(engine, timedelta(hours=2))
    assert await take_due_actions(engine) == [build_id_of(dev, REPEAT)]

    request = OperatorRequest(action="abandon", workspace=DEV, by="carol")
    answer = await carry_out(operations, request)
    done = AbandonResult.model_validate(answer)
    assert (done.workspace, done.build_id, done.error, done.host, done.left) == (DEV, deletion, "no", "h1", LEFT)
    assert _describe_abandoned(done).splitlines()[2:] == [
        "what may be left at host h1:",
        "  region: eu",
        "  vm: i-0123",
    ]
    await operations.context.dispatcher.drain()
    assert build_workflow_id(build_id_of(dev, REPEAT)) in workflows.canceled
    [(_, data)] = await events(engine, "abandoned")
    assert data == {"workspace": DEV, "host": "h1", "error": "no", "left": LEFT}
    shown = await show_workspace(engine, str(dev))
    assert (shown.resources, [event.actor for event in shown.events][-1]) == (LEFT, "carol")
    assert shown.status == "abandoned"
    assert await read_removal(engine, dev) is None, "the next workspace may get the resources under its name"
    [row] = await read_recorded(engine, Place("process", "h1", ["q"]), [dev])
    assert (row.live, row.abandoned) == (False, True)
    states = "SELECT array_agg(provisioner_state) FROM workspace_builds WHERE provisioner_state IS NOT NULL"
    assert (await one(engine, states))[0] == [{"state": 1}], "only the latest state, which names the leftovers"
    assert await secrets_of(engine, dev) == {}
    assert (await begin_build(engine, build_id_of(dev, REPEAT)))[1] is None
    await let_pass(engine, timedelta(days=2))
    assert await take_due_actions(engine) == []

    preset = await find_preset(engine)
    await make_ready(engine, preset, 1)
    [again] = workspace_ids([await claim(store, preset, "again", name="dev")])
    assert again != dev
    assert await row_of(engine, again)
    with pytest.raises(WorkspaceNotFound):
        await operations.workspaces.abandon(OPS, str(dev))


async def test_only_a_workspace_with_a_failed_deletion_can_be_abandoned(
    engine: AsyncEngine, operations: Operations, dev: UUID
) -> None:
    for text in (DEV, str(dev)):
        assert f"no deletion of {DEV} has failed" in await refused(operations, text)
    await operations.workspaces.stop(OPS, DEV)
    await run(engine, dev, FAILED)
    assert "no deletion" in await refused(operations), "another build's failure is no reason"
    await operations.workspaces.release(OPS, DEV)
    assert "no deletion" in await refused(operations)
    await run(engine, dev, FAILED)
    await operations.workspaces.retry(OPS, DEV)
    repeat = build_id_of(dev, (await row_of(engine, dev)).latest_build)
    await begin_build(engine, repeat)
    assert f"prebuilds logs {repeat} -f" in await refused(operations)
    assert (await row_of(engine, dev)).deleted_at is None
    await run(engine, dev)
    assert (await row_of(engine, dev)).deleted_at is not None
    assert (await one(engine, "SELECT count(*) FROM events WHERE kind = 'abandoned'"))[0] == 0


async def test_a_prebuild_that_cannot_be_destroyed_is_abandoned_by_its_id(
    engine: AsyncEngine, operations: Operations, store: ClaimStore
) -> None:
    await claimed(engine, store)
    [prebuild] = await make_ready(engine, await find_preset(engine), 1)
    await operations.workspaces.release(OPS, str(prebuild))
    await run(engine, prebuild, FAILED)
    done: Any = await operations.workspaces.abandon(OPS, str(prebuild))
    assert "what may be left: not known" in _describe_abandoned(done)
    assert (await row_of(engine, prebuild)).deleted_at is not None
