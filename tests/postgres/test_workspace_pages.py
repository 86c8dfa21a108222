"""A service without a database lists and shows workspaces through Temporal, page by page."""

from __future__ import annotations

from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.operator import OperatorActivities
from prebuilds.api import InvalidInput, OwnerNotFound, WorkspaceNotFound
from prebuilds.operations.context import Context
from prebuilds.operations.facade import Operations
from prebuilds.settings import Settings
from prebuilds.store.claims import ClaimStore
from tests.builders import make_preset
from tests.postgres.pool_steps import NotedDispatcher, Workflows, claim, make_ready, workspace_ids
from tests.postgres.test_late_requests import new_request
from tests.rows import one


async def test_pages_have_each_workspace_once_and_leave_no_trace(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0)
    await make_ready(engine, preset, 4)
    owned = workspace_ids([await claim(store, preset, id_, name=id_) for id_ in ("one", "two", "three")])
    operator = OperatorActivities(
        Operations(Context(engine, cast("Client", Workflows()), NotedDispatcher(), Settings()))
    )

    async def ask(**raw: Any) -> Any:
        return await ActivityEnvironment().run(operator.operate, raw, new_request())

    seen, after = [], None
    while True:
        page = await ask(action="list_workspaces", owner="alice", limit=2, after=after)
        seen += [row["id"] for row in page["workspaces"]]
        if (after := page["next"]) is None:
            break
    assert sorted(seen) == sorted(str(id_) for id_ in owned), "each once"
    assert len((await ask(action="list_workspaces", preset=str(preset.id)))["workspaces"]) == 4, "the pool's one, too"
    shown = await ask(action="show_workspace", workspace="alice/two")
    assert (shown["id"], shown["owner"], shown["name"]) == (str(owned[1]), "alice", "two")
    with pytest.raises(OwnerNotFound):
        await ask(action="list_workspaces", owner="nobody")
    with pytest.raises(WorkspaceNotFound):
        await ask(action="show_workspace", workspace="alice/four")
    with pytest.raises(InvalidInput, match="workspace: is required"):
        await ask(action="show_workspace")
    assert (await one(engine, "SELECT count(*) AS kept FROM operator_requests")).kept == 0, "reads are not recorded"
