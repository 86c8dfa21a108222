"""What a driver saves while it works: by the latest attempt of the latest build, and by nobody else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.payloads import BuildStatus, Transition, build_id_of
from prebuilds.provisioners.base import Provisioned, StaleBuild
from prebuilds.store.build_end import end_build
from prebuilds.store.builds import AttemptOvertaken, begin_build, record_build, save_state
from tests.builders import make_preset
from tests.postgres.pool_steps import begin_prebuilds

FIRST = datetime(2026, 7, 1, tzinfo=UTC)
SECOND = FIRST + timedelta(milliseconds=1)


async def given(engine: AsyncEngine, workspace_id: UUID, number: int) -> dict[str, Any] | None:
    """The state that the next attempt of this build gets."""
    _, wanted = await begin_build(engine, build_id_of(workspace_id, number))
    assert wanted is not None
    return wanted.state


async def test_each_attempt_is_given_what_was_last_saved_and_nothing_more(engine: AsyncEngine) -> None:
    [workspace_id] = await begin_prebuilds(engine, await make_preset(engine), 1)
    build_id = build_id_of(workspace_id, 1)
    for number, attempt_at in enumerate((FIRST, FIRST, SECOND)):
        await save_state(engine, build_id, {"serial": number}, attempt_at)
        assert await given(engine, workspace_id, 1) == {"serial": number}


async def test_an_overtaken_attempt_cannot_overwrite_the_later_one(engine: AsyncEngine) -> None:
    [workspace_id] = await begin_prebuilds(engine, await make_preset(engine), 1)
    build_id = build_id_of(workspace_id, 1)
    await save_state(engine, build_id, {"by": "second"}, SECOND)
    with pytest.raises(AttemptOvertaken):
        await save_state(engine, build_id, {"by": "first"}, FIRST)
    assert await given(engine, workspace_id, 1) == {"by": "second"}


@pytest.mark.parametrize("status", [BuildStatus.SUCCEEDED, BuildStatus.FAILED, BuildStatus.CANCELED])
async def test_a_build_that_has_ended_cannot_overwrite_anything(engine: AsyncEngine, status: BuildStatus) -> None:
    [workspace_id] = await begin_prebuilds(engine, await make_preset(engine), 1)
    build_id = build_id_of(workspace_id, 1)
    await save_state(engine, build_id, {"by": "while it ran"}, FIRST)
    made = Provisioned(state={"by": "its end"}) if status is BuildStatus.SUCCEEDED else None
    await end_build(engine, build_id, status, provisioned=made)
    left = {"by": "its end"} if made else {"by": "while it ran"}
    async with engine.begin() as connection:
        await record_build(connection, workspace_id, Transition.DELETE)
    with pytest.raises(StaleBuild) as refused:
        await save_state(engine, build_id, {"by": "the frozen one"}, SECOND)
    assert not isinstance(refused.value, AttemptOvertaken)
    assert await given(engine, workspace_id, 2) == left
    await save_state(engine, build_id_of(workspace_id, 2), {"by": "the deletion"}, FIRST)
    with pytest.raises(StaleBuild):
        await save_state(engine, build_id, {"by": "the frozen one"}, SECOND)
    assert await given(engine, workspace_id, 2) == {"by": "the deletion"}
