"""Promises that hold while no call is cut off. A check's docstring is the promise, as reports show it."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from prebuilds.api import ProvisionFailed
from prebuilds.conformance.subject import Skipped, Violation, expect
from prebuilds.conformance.trial import Trial, same_thing
from prebuilds.provisioners.base import InvalidSource, Provision

UNKNOWN_FIELD = "no_such_field"
HOPELESS_S = 0.001
"""No real workspace is ready within this time."""


async def wrong_source_is_named(trial: Trial) -> None:
    """validate accepts the source, and names an unknown field"""
    source = trial.subject.working_source()
    trial.driver.validate(source)
    expect(isinstance(trial.driver.hands_over(source), bool), "hands_over answers neither True nor False")
    try:
        trial.driver.validate({**source, UNKNOWN_FIELD: 1})
    except InvalidSource as error:
        field = f"source.{UNKNOWN_FIELD}"
        expect(field in error.details, f"the details name {sorted(error.details)} instead of {field}")
    else:
        raise Violation(f"validate accepts the unknown field {UNKNOWN_FIELD}, which would be a typing error")
    await trial.expect_existing([], "after validate")


async def apply_makes_it_ready(trial: Trial) -> None:
    """after apply, probe says that the workspace is ready"""
    build = trial.build()
    await trial.apply(build)
    await trial.expect_existing([(build, True)], "after apply")


async def twice_makes_one(trial: Trial) -> None:
    """each call made twice makes one thing"""
    build = trial.build()
    same_thing(await trial.apply(build), await trial.apply(build, trial.another()), "after apply twice")
    await trial.expect_existing([(build, True)], "after apply twice")
    claim = trial.claiming(build)
    same_thing(await trial.claim(claim), await trial.claim(claim, trial.another()), "after claim twice")
    await trial.expect_existing([(claim, True)], "after claim twice")
    stop = trial.next(claim)
    await trial.stop(stop)
    await trial.stop(stop, trial.another())
    await trial.expect_existing([(stop, False)], "after stop twice")
    gone = trial.next(stop)
    await trial.destroy(gone)
    await trial.destroy(gone, trial.another())
    await trial.expect_existing([], "after destroy twice")


async def at_once_makes_one(trial: Trial) -> None:
    """the same call several times at once, from two workers, makes one thing"""
    build, other = trial.build(), trial.another()
    made = await asyncio.gather(*[trial.apply(build, driver) for driver in (trial.driver, other, trial.driver)])
    for again in made[1:]:
        same_thing(made[0], again, "after apply at once")
    same_thing(made[0], await trial.apply(build), "after apply once more")
    await trial.expect_existing([(build, True)], "after apply at once")
    claim = trial.claiming(build)
    same_thing(*await asyncio.gather(trial.claim(claim), trial.claim(claim, other)), "after claim at once")
    await trial.expect_existing([(claim, True)], "after claim at once")
    gone = trial.next(claim)
    await asyncio.gather(trial.destroy(gone), trial.destroy(gone, other))
    await trial.expect_existing([], "after destroy at once")


async def lost_replies_do_no_harm(trial: Trial) -> None:
    """a call whose reply was lost can be repeated with the state that save_state kept"""
    build = trial.build()
    await trial.call("apply", build)
    await trial.apply(build, trial.another())
    await trial.expect_existing([(build, True)], "after apply with a lost reply")
    claim = trial.claiming(build)
    await trial.call("claim", claim)
    await trial.claim(claim, trial.another())
    await trial.expect_existing([(claim, True)], "after claim with a lost reply")


async def plan_is_quiet(trial: Trial) -> None:
    """plan changes nothing, and returns nothing when nothing would be replaced"""
    build = trial.build()
    expect(await trial.driver.plan(trial.claiming(build)) == [], "plan replaces something where nothing exists")
    await trial.expect_existing([], "after the plan of what does not exist")
    await trial.apply(build)
    claim = trial.claiming(build)
    planned = await trial.driver.plan(_with_state(trial, claim))
    expect(
        planned == await trial.driver.plan(_with_state(trial, claim)), "the same plan twice returns different results"
    )
    expect(await trial.ready(build.workspace_id), "the workspace is not ready any more after plan")
    await trial.claim(claim)
    again = await trial.driver.plan(_with_state(trial, trial.next(claim)))
    expect(again == [], f"after the claim, plan still replaces {[one.resource for one in again]}")


async def stop_keeps_it(trial: Trial) -> None:
    """stop ends what runs and keeps the workspace; apply starts it again"""
    build = trial.build()
    await trial.apply(build)
    stop = trial.next(build)
    await trial.stop(stop)
    await trial.expect_existing([(stop, False)], "after stop")
    start = trial.next(stop)
    await trial.apply(start)
    await trial.expect_existing([(start, True)], "after stop and apply")


async def inventory_is_true(trial: Trial) -> None:
    """inventory lists exactly what exists, and destroy of one workspace touches no other"""
    first, second, third = trial.build(), trial.build(3), trial.build()
    for build in (first, second, third):
        await trial.apply(build)
    claim, stop = trial.claiming(first), trial.next(second)
    await trial.claim(claim)
    await trial.stop(stop)
    await trial.expect_existing([(claim, True), (stop, False), (third, True)], "with one claimed and one stopped")
    await trial.destroy(trial.next(third))
    await trial.expect_existing([(claim, True), (stop, False)], "after destroy of another one")
    await trial.destroy(trial.next(claim))
    await trial.destroy(trial.next(stop))
    await trial.expect_existing([], "after destroy of all")


async def older_builds_are_refused(trial: Trial) -> None:
    """a lower build number is refused after a higher one, also after destroy, and changes nothing"""
    build = trial.build(3)
    older = trial.build(2, build.workspace_id)
    await trial.apply(build)
    for name in ("apply", "claim", "stop", "destroy"):
        await trial.refuses(name, older, "after build 3 was here")
    await trial.expect_existing([(build, True)], "after older builds")
    stop = trial.next(build)
    await trial.stop(stop)
    await trial.refuses("apply", build, "after a later stop")
    await trial.expect_existing([(stop, False)], "after an apply that comes before the stop")
    await trial.destroy(trial.next(stop))
    await trial.refuses("apply", stop, "after a later destroy")
    await trial.expect_existing([], "after an apply that comes before the destroy")
    for name in ("stop", "destroy"):
        never = trial.build(2)
        await trial.call(name, never)
        await trial.refuses("apply", trial.build(1, never.workspace_id), f"after a later {name} found nothing")
        await trial.expect_existing([], f"after an apply that comes before a {name} of nothing")


async def unknown_is_no_error(trial: Trial) -> None:
    """for a workspace that never existed, probe says no, and stop and destroy succeed"""
    expect(not await trial.ready(uuid4()), "probe says that a workspace nobody made is ready")
    for name in ("stop", "destroy"):
        await trial.call(name, trial.build())
        await trial.expect_existing([], f"after {name} of nothing")


async def failed_start_leaves_nothing(trial: Trial) -> None:
    """an apply that fails removes what it made of a new workspace"""
    build = trial.build(ready_timeout_s=HOPELESS_S)
    try:
        await trial.apply(build)
    except ProvisionFailed:
        await trial.expect_existing([], "after an apply that failed")
    else:
        raise Skipped(f"it is ready within {HOPELESS_S * 1000:g} ms, so its apply does not fail")
    same = build.model_copy(update={"ready_timeout_s": trial.subject.ready_timeout_s})
    await trial.apply(same)
    await trial.expect_existing([(same, True)], "after a second try of the build that failed")


def _with_state(trial: Trial, build: Provision) -> Provision:
    return build.model_copy(update={"state": trial.states.get(build.workspace_id)})
