"""A lint's reads, and its activity's results for a driver's answers; it writes nothing."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.lint import LintActivities, Linted
from prebuilds.api import NoClaimablePrebuiltWorkspaces, PresetNotFound, ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import InvalidSource, Provision, Provisioner, StaleBuild
from prebuilds.store.claims import ClaimStore
from prebuilds.store.lint import Candidate, find_candidates
from tests.builders import MadePreset, make_preset
from tests.postgres.pool_steps import begin_prebuilds, claim, make_ready
from tests.rows import do, rows_of

VM = Replacement(resource="vm.main", paths=["owner"])


class Planning:
    """A driver that only plans: it records requests, gives its answer, and runs a concurrent action."""

    def __init__(self, answer: list[Replacement] | Exception) -> None:
        self.answer = answer
        self.planned: list[Provision] = []
        self.meanwhile: Any = None

    async def plan(self, wanted: Provision) -> list[Replacement]:
        self.planned.append(wanted)
        if self.meanwhile is not None:
            await self.meanwhile()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
async def preset(engine: AsyncEngine) -> MadePreset:
    return await make_preset(engine, parameters={"size": "small"}, claim_parameters=["token", "colour"])


async def candidate(engine: AsyncEngine) -> Candidate:
    return (await find_candidates(engine, "acme/python/small")).prebuilds[0]


async def lint(engine: AsyncEngine, driver: Planning, one: Candidate) -> Linted:
    activities = LintActivities(engine, lambda _: cast("Provisioner", driver))
    return cast("Linted", await ActivityEnvironment().run(activities.plan_claim, one))


async def test_a_claim_with_made_up_inputs_is_planned_and_nothing_is_written(
    engine: AsyncEngine, preset: MadePreset
) -> None:
    [made] = await make_ready(engine, preset, 1)
    before = await rows_of(engine)
    driver = Planning([VM])
    assert await lint(engine, driver, await candidate(engine)) == Linted(replacements=[VM])
    [planned] = driver.planned
    assert (planned.workspace_id, planned.build_number, planned.claimed, planned.trial) == (made, 1, True, True)
    assert planned.parameters == {"size": "small"}
    assert planned.claim_parameters.keys() == {"token", "colour"}
    assert planned.owner not in ("prebuilds", "alice")
    assert planned.source == {"command": ["sleep", "infinity"]}
    assert await rows_of(engine) == before


async def test_candidates_are_the_newest_ready_ones_on_their_hosts(engine: AsyncEngine, preset: MadePreset) -> None:
    with pytest.raises(NoClaimablePrebuiltWorkspaces, match="acme/python/small has no ready prebuild"):
        await find_candidates(engine, str(preset.id))
    with pytest.raises(PresetNotFound):
        await find_candidates(engine, "acme/python/large")
    await begin_prebuilds(engine, preset, 1)
    made = await make_ready(engine, preset, 4)
    for age, workspace_id in enumerate(made):
        statement = "UPDATE workspaces SET created_at = created_at - make_interval(mins => :age) WHERE id = :id"
        await do(engine, statement, id=workspace_id, age=age)
    await do(engine, "UPDATE workspaces SET host = 'h1' WHERE id = :id", id=made[1])
    found = await find_candidates(engine, str(preset.id))
    assert (found.preset_id, found.path) == (preset.id, "acme/python/small")
    assert [(one.workspace_id, one.queue) for one in found.prebuilds] == [
        (made[0], "prebuilds-provisioner-people"),
        (made[1], "prebuilds-provisioner-people@h1"),
        (made[2], "prebuilds-provisioner-people"),
    ]


async def test_lint_reports_nothing_from_a_prebuild_claimed_meanwhile(
    engine: AsyncEngine, preset: MadePreset, store: ClaimStore
) -> None:
    await make_ready(engine, preset, 2)
    driver = Planning([VM])

    async def claim_both() -> None:
        await claim(store, preset)
        await claim(store, preset)

    driver.meanwhile = claim_both
    one = await candidate(engine)
    assert await lint(engine, driver, one) == Linted(gone=True)
    assert await lint(engine, driver, one) == Linted(gone=True)
    assert len(driver.planned) == 1, "a claimed one is not asked about"


async def test_lint_reports_a_drivers_refusal(engine: AsyncEngine, preset: MadePreset) -> None:
    await make_ready(engine, preset, 1)
    one = await candidate(engine)
    assert await lint(engine, Planning(StaleBuild("a claim was here")), one) == Linted(gone=True)
    for error in (InvalidSource("token: too short", {"source.variables": "too short"}), ProvisionFailed("no binary")):
        with pytest.raises(ProvisionFailed, match=f"made-up inputs cannot be planned: {error}") as refused:
            await lint(engine, Planning(error), one)
        assert refused.value.details == error.details


async def test_an_unknown_id_is_not_found(engine: AsyncEngine) -> None:
    with pytest.raises(PresetNotFound):
        await find_candidates(engine, str(UUID(int=3)))
