"""Promises that hold when the database has lost a claim, and when two deployments share a host or an account."""

from __future__ import annotations

from uuid import uuid4

from prebuilds.api import ProvisionerUnavailable
from prebuilds.conformance.subject import expect
from prebuilds.conformance.trial import Trial
from prebuilds.provisioners.base import OwnedByAnother, Provision
from prebuilds.vocabulary import PREBUILDS_USER

EFFECTS = ("apply", "claim", "stop", "destroy")


async def inventory_tells_the_mark(trial: Trial) -> None:
    """inventory has the epoch of each thing, and the owner and claim id of what was given away"""
    build = trial.build()
    await trial.apply(build)
    await _expect_mark(trial, build, "after apply")
    claim = trial.claiming(build)
    await trial.claim(claim)
    await _expect_mark(trial, claim, "after claim")
    stop = trial.next(claim, epoch=uuid4())
    await trial.stop(stop)
    await _expect_mark(trial, stop.model_copy(update={"epoch": build.epoch}), "after the stop of another epoch")
    await trial.apply(trial.next(stop))
    await trial.destroy(trial.next(trial.next(stop)))
    made = trial.claiming(trial.build()).model_copy(update={"build_number": 1})
    await trial.apply(made)
    await _expect_mark(trial, made, "after apply of what a claim had made")


async def another_claim_is_refused(trial: Trial) -> None:
    """a workspace that one claim gave away is refused to every other claim, whatever its build number"""
    build = trial.build()
    await trial.apply(build)
    before = trial.states[build.workspace_id]
    claim = trial.claiming(build)
    await trial.claim(claim)
    await trial.claim(claim, trial.another())
    after, trial.states[build.workspace_id] = trial.states[build.workspace_id], before
    for number in (build.build_number, claim.build_number, claim.build_number + 1):
        others = {"build_number": number, "owner": "bob", "name": "bobs", "claim_id": f"bob/{uuid4().hex[:8]}"}
        for name in EFFECTS:
            await trial.refuses_another(name, claim.model_copy(update=others), "after alice had claimed it")
        same_id = others | {"claim_id": claim.claim_id}
        await trial.refuses_another("claim", claim.model_copy(update=same_id), "though only the claim id is alice's")
    trial.states[build.workspace_id] = after
    await trial.expect_existing([(claim, True)], "after others' calls were refused")
    await trial.claim(claim)
    await trial.destroy(trial.next(claim))
    await trial.expect_existing([], "after its owner's destroy")


async def marks_outlive_the_database(trial: Trial) -> None:
    """a workspace that a claim gave away is refused to a call without a claim, as after a restore of the database"""
    build = trial.build()
    await trial.apply(build)
    before = trial.states[build.workspace_id]
    claim = trial.claiming(build)
    await trial.claim(claim)
    after, trial.states[build.workspace_id] = trial.states[build.workspace_id], before
    forgetful = claim.model_copy(update={"owner": PREBUILDS_USER, "claimed": False, "claim_id": None})
    for name in EFFECTS:
        await trial.refuses_another(name, forgetful, "though the workspace carries a claim's mark")
        await trial.refuses_another(name, trial.next(forgetful), "though the workspace carries a claim's mark")
    trial.states[build.workspace_id] = after
    await trial.expect_existing([(claim, True)], "after calls that know of no claim were refused")


async def another_deployment_is_apart(trial: Trial) -> None:
    """another deployment's driver in the same place sees nothing of this one's, and removes nothing"""
    build, claim = trial.build(), trial.claiming(trial.build())
    await trial.apply(build)
    await trial.apply(claim)
    other_id = uuid4()
    other = trial.subject.driver(trial.state_dir, other_id)
    seen = {item.workspace_id for item in await other.inventory()} & {build.workspace_id, claim.workspace_id}
    expect(not seen, f"another deployment's inventory has {sorted(map(str, seen))}")
    for theirs in (build, claim):
        try:
            ready = await other.probe(theirs.workspace_id)
        except (OwnedByAnother, ProvisionerUnavailable):
            ready = False
        expect(not ready, "probe of another deployment's driver says that this one's workspace is ready")
        for name in ("stop", "destroy"):
            await _without_effect(trial, name, theirs.model_copy(update={"deployment_id": other_id}), other)
    await trial.expect_existing([(build, True), (claim, True)], "after another deployment's stop and destroy")


async def _without_effect(trial: Trial, name: str, build: Provision, driver: object) -> None:
    """Call *name*; a refusal passes, and so does a call that finds nothing."""
    try:
        await getattr(driver, name)(build, trial.kept(build))
    except OwnedByAnother:
        return


async def _expect_mark(trial: Trial, build: Provision, when: str) -> None:
    item = (await trial.existing()).get(build.workspace_id)
    expect(item is not None, f"{when}, the inventory lacks the workspace")
    assert item is not None  # noqa: S101 - expected before
    expect(item.epoch == build.epoch, f"{when}, the inventory gives epoch {item.epoch} instead of {build.epoch}")
    marked = (build.owner, build.claim_id) if build.claimed else (None, None)
    found = (item.claimed_by, item.claim_id)
    expect(found == marked, f"{when}, the inventory has the mark {found} instead of {marked}")
