"""A driver's saved state: only the latest attempt of the latest build reads and writes it."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any, cast
from unittest.mock import Mock
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.provisioning import ProvisioningActivities
from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.base import Locality, OwnedByAnother, Progress, Provision, Provisioned, StaleBuild
from prebuilds.store.build_begin import AttemptOvertaken, begin_build, save_state
from prebuilds.store.build_end import end_build
from prebuilds.store.build_record import record_build
from prebuilds.store.identity import read_identity
from prebuilds.store.loop import read_control
from prebuilds.store.workspaces import show_workspace
from prebuilds.vocabulary import BuildStatus, Transition, build_id_of
from tests.builders import make_preset
from tests.postgres.pool_steps import NotedDispatcher, begin_prebuilds, record_prebuilds

FIRST, SECOND = 1, 2
"""Attempts: the first one is what `begin_prebuilds` begins."""


async def given(engine: AsyncEngine, workspace_id: UUID, number: int) -> dict[str, Any] | None:
    """Return the state that the next attempt of this build gets."""
    _, wanted = await begin_build(engine, build_id_of(workspace_id, number))
    assert wanted is not None
    return wanted.state


async def test_each_attempt_is_given_what_was_last_saved_and_nothing_more(engine: AsyncEngine) -> None:
    [workspace_id] = await begin_prebuilds(engine, await make_preset(engine), 1)
    build_id = build_id_of(workspace_id, 1)
    for attempt in range(1, 4):
        for serial in range(2):
            await save_state(engine, build_id, {"serial": serial}, attempt)
        assert await given(engine, workspace_id, 1) == {"serial": 1}


async def test_an_overtaken_attempt_cannot_overwrite_the_later_one(engine: AsyncEngine) -> None:
    [workspace_id] = await begin_prebuilds(engine, await make_preset(engine), 1)
    build_id = build_id_of(workspace_id, 1)
    await begin_build(engine, build_id)  # which is enough: it may be at work for long before it saves anything
    with pytest.raises(AttemptOvertaken):
        await save_state(engine, build_id, {"by": "first"}, FIRST)
    await save_state(engine, build_id, {"by": "second"}, SECOND)
    assert await given(engine, workspace_id, 1) == {"by": "second"}


async def test_a_late_attempt_never_overtakes_one_scheduled_after_it(engine: AsyncEngine) -> None:
    [workspace_id] = await begin_prebuilds(engine, await make_preset(engine), 1)
    build_id, driver = build_id_of(workspace_id, 1), Mock()
    activities = ProvisioningActivities(engine, NotedDispatcher(), lambda _: driver, "host")
    frozen = ActivityEnvironment()
    later = frozen.info.current_attempt_scheduled_time + timedelta(seconds=1)
    facts, _ = await begin_build(engine, build_id, later)
    with pytest.raises(AttemptOvertaken):
        await frozen.run(activities.run_build, build_id)
    assert not driver.mock_calls, "nothing was touched"
    await save_state(engine, build_id, {"by": "the later"}, facts.attempt)
    again, wanted = await begin_build(engine, build_id, later)
    assert wanted is not None
    assert again.attempt > facts.attempt, "a repeated one goes on"


@pytest.mark.parametrize("status", [BuildStatus.SUCCEEDED, BuildStatus.FAILED, BuildStatus.CANCELED])
async def test_an_overtaken_attempt_cannot_end_the_build(engine: AsyncEngine, status: BuildStatus) -> None:
    [workspace_id] = await begin_prebuilds(engine, await make_preset(engine), 1)
    build_id, made = build_id_of(workspace_id, 1), Provisioned(state={"by": "first"})
    await begin_build(engine, build_id)
    with pytest.raises(AttemptOvertaken):
        await end_build(engine, build_id, status, provisioned=made, attempt=FIRST)
    end = await end_build(engine, build_id, status, attempt=SECOND)
    assert (end.status, end.ended_now) == (status, True)
    late = await end_build(engine, build_id, BuildStatus.FAILED, attempt=FIRST)
    assert (late.status, late.ended_now) == (status, False)


async def test_a_caller_without_an_attempt_can_always_end_a_build(engine: AsyncEngine) -> None:
    [workspace_id] = await begin_prebuilds(engine, await make_preset(engine), 1)
    await begin_build(engine, build_id_of(workspace_id, 1))
    assert (await end_build(engine, build_id_of(workspace_id, 1), BuildStatus.FAILED)).ended_now


class Overtaken:
    """A driver whose effect takes so long that a later attempt begins meanwhile."""

    locality = Locality.SHARED

    def __init__(self, engine: AsyncEngine, build_id: UUID, error: Exception | None, *, ends: bool = False) -> None:
        """Args:
        ends: Whether the later attempt has ended the build, too.
        """
        self._engine, self._build_id, self._error, self._ends = engine, build_id, error, ends

    async def apply(self, wanted: Provision, progress: Progress) -> Provisioned:
        await begin_build(self._engine, self._build_id)
        if self._ends:
            await end_build(self._engine, self._build_id, BuildStatus.SUCCEEDED)
        if self._error is not None:
            raise self._error
        return Provisioned(state={"by": "first"})


class Refusing:
    """A driver that refuses to provision because the object belongs to another owner."""

    locality = Locality.SHARED

    def __init__(self, error: OwnedByAnother) -> None:
        self._error = error

    async def apply(self, wanted: Provision, progress: Progress) -> Provisioned:
        raise self._error


def marked_since(engine_epoch: UUID) -> OwnedByAnother:
    """The workspace of a frozen start was claimed after a later attempt had ended the build."""
    return OwnedByAnother("given to alice", {"what": "container x", "owner": "alice", "epoch": str(engine_epoch)})


async def test_a_late_attempt_that_meets_a_later_claims_mark_proves_no_restore(engine: AsyncEngine) -> None:
    preset, epoch = await make_preset(engine), (await read_identity(engine)).epoch
    for ended_before in (False, True):
        [workspace_id] = await begin_prebuilds(engine, preset, 1)
        build_id = build_id_of(workspace_id, 1)
        driver = Overtaken(engine, build_id, marked_since(epoch), ends=ended_before)
        activities = ProvisioningActivities(engine, NotedDispatcher(), lambda _, to=driver: cast("Any", to), "host")
        with contextlib.nullcontext() if ended_before else pytest.raises(AttemptOvertaken):
            await ActivityEnvironment().run(activities.run_build, build_id)
        assert (await read_control(engine)).restore_found is None
        shown = await show_workspace(engine, str(workspace_id))
        assert shown.status != "quarantined"


async def test_an_attempt_that_is_the_latest_and_meets_an_unknown_claims_mark_proves_a_restore(
    engine: AsyncEngine,
) -> None:
    preset, epoch = await make_preset(engine), (await read_identity(engine)).epoch
    [workspace_id] = await record_prebuilds(engine, preset, 1)
    driver = Refusing(marked_since(epoch))
    activities = ProvisioningActivities(engine, NotedDispatcher(), lambda _: cast("Any", driver), "h1")
    await ActivityEnvironment().run(activities.run_build, build_id_of(workspace_id, 1))
    assert (await read_control(engine)).restore_found == "host h1: given to alice"
    assert (await show_workspace(engine, str(workspace_id))).status == "quarantined"


@pytest.mark.parametrize("error", [None, ProvisionFailed("no room"), StaleBuild("later")])
async def test_an_attempt_that_was_overtaken_leaves_the_end_to_the_later_one(
    engine: AsyncEngine, error: Exception | None
) -> None:
    [workspace_id] = await begin_prebuilds(engine, await make_preset(engine), 1)
    build_id = build_id_of(workspace_id, 1)
    driver = Overtaken(engine, build_id, error)
    activities = ProvisioningActivities(engine, NotedDispatcher(), lambda _: cast("Any", driver), "host")
    with pytest.raises(AttemptOvertaken):
        await ActivityEnvironment().run(activities.run_build, build_id)
    facts, wanted = await begin_build(engine, build_id)
    assert wanted is not None, "it still runs"
    assert (await end_build(engine, build_id, BuildStatus.SUCCEEDED, attempt=facts.attempt)).ended_now


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
        await save_state(engine, build_id, {"by": "the frozen one"}, FIRST)
    assert not isinstance(refused.value, AttemptOvertaken)
    assert await given(engine, workspace_id, 2) == left
    await save_state(engine, build_id_of(workspace_id, 2), {"by": "the deletion"}, FIRST)
    with pytest.raises(StaleBuild):
        await save_state(engine, build_id, {"by": "the frozen one"}, FIRST)
    assert await given(engine, workspace_id, 2) == {"by": "the deletion"}


async def test_a_prebuilds_driver_gets_the_claim_parameter_names(engine: AsyncEngine) -> None:
    [workspace_id] = await begin_prebuilds(engine, await make_preset(engine, claim_parameters=["token"]), 1)
    _, wanted = await begin_build(engine, build_id_of(workspace_id, 1))
    assert wanted is not None
    assert (wanted.claim_parameter_names, wanted.claim_parameters) == (("token",), {})


async def test_a_deletion_leaves_the_latest_state_alone(engine: AsyncEngine) -> None:
    """Earlier states may hold secrets; the latest one is needed to remove an orphan."""
    [workspace_id] = await begin_prebuilds(engine, await make_preset(engine), 1)
    await save_state(engine, build_id_of(workspace_id, 1), {"token": "hunter2"}, FIRST)
    await end_build(engine, build_id_of(workspace_id, 1), BuildStatus.SUCCEEDED)
    async with engine.begin() as connection:
        await record_build(connection, workspace_id, Transition.DELETE)
    deletion = build_id_of(workspace_id, 2)
    await begin_build(engine, deletion)
    await save_state(engine, deletion, {"token": None}, FIRST)
    await end_build(engine, deletion, BuildStatus.SUCCEEDED)
    async with engine.connect() as connection:
        kept = list(await connection.scalars(text("SELECT provisioner_state FROM workspace_builds ORDER BY number")))
    assert kept == [None, {"token": None}]
