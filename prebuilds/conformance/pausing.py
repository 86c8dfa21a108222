"""Checks of a driver that implements `PausingProvisioner`: a paused workspace does not run, and can be resumed."""

from __future__ import annotations

from uuid import uuid4

from prebuilds.conformance.cuts import spread
from prebuilds.conformance.subject import Skipped, expect
from prebuilds.conformance.trial import Trial, same_thing
from prebuilds.conformance.victims import using_victims
from prebuilds.provisioners.optional import HostProvisioner, PausingProvisioner


async def pause_keeps_it(trial: Trial) -> None:
    """pause leaves nothing running and keeps the workspace; resume makes that one ready again"""
    _must_pause(trial)
    build = trial.build()
    await trial.apply(build)
    pause = trial.next(build)
    await trial.call("pause", pause)
    await trial.expect_existing([(pause, False)], "after pause")
    await trial.call("pause", pause, trial.another())
    await trial.expect_existing([(pause, False)], "after pause twice")
    if isinstance(host := trial.another(), HostProvisioner):
        expect(await host.restore() == [], "restore starts a paused workspace")
    resume = trial.next(pause)
    resumed = await trial.resume(resume)
    await trial.expect_existing([(resume, True)], "after resume")
    same_thing(resumed, await trial.resume(resume, trial.another()), "after resume twice")
    await trial.expect_existing([(resume, True)], "after resume twice")
    again = trial.next(resume)
    same_thing(resumed, await trial.resume(again), "after resume of what runs")
    await trial.expect_existing([(again, True)], "after resume of what runs")


async def paused_is_claimed(trial: Trial) -> None:
    """claim of a paused workspace resumes it and hands it over; apply of another one starts it; destroy removes both"""
    _must_pause(trial)
    build, other = trial.build(), trial.build()
    for one in (build, other):
        await trial.apply(one)
        await trial.call("pause", trial.next(one))
    claim, start = trial.claiming(trial.next(build)), trial.next(trial.next(other))
    await trial.driver.plan(claim.model_copy(update={"state": trial.states[claim.workspace_id]}))
    same_thing(await trial.claim(claim), await trial.claim(claim, trial.another()), "after claim of a paused one")
    await trial.apply(start)
    await trial.expect_existing([(claim, True), (start, True)], "after claim and apply of paused ones")
    pause = trial.next(start)
    await trial.call("pause", pause)
    await trial.destroy(trial.next(pause))
    await trial.expect_existing([(claim, True)], "after destroy of a paused one")
    await trial.destroy(trial.next(claim))
    await trial.expect_existing([], "after destroy of a claimed one that was paused")


async def older_pauses_are_refused(trial: Trial) -> None:
    """pause and resume obey build numbers and marks, and pause of what never existed succeeds"""
    _must_pause(trial)
    await trial.call("pause", trial.build())
    await trial.expect_existing([], "after pause of nothing")
    build = trial.build()
    await trial.apply(build)
    pause = trial.next(build)
    await trial.call("pause", pause)
    await trial.refuses("resume", build, "after a later pause")
    resume = trial.next(pause)
    await trial.resume(resume)
    await trial.refuses("pause", pause, "after a later resume")
    await trial.expect_existing([(resume, True)], "after an older pause")
    claim = trial.claiming(resume)
    await trial.claim(claim)
    unclaimed, bobs = (
        trial.next(resume),
        claim.model_copy(update={"owner": "bob", "claim_id": f"bob/{uuid4().hex[:8]}"}),
    )
    for name in ("pause", "resume"):
        await trial.refuses_another(name, unclaimed, "though the workspace carries a claim's mark")
        await trial.refuses_another(name, bobs, "after alice had claimed it")
    await trial.expect_existing([(claim, True)], "after others' calls were refused")


async def killed_while_pausing(trial: Trial) -> None:
    """pause or resume that was killed with its worker and is repeated leaves one paused or one ready workspace"""
    _must_pause(trial)
    async with using_victims(trial) as victims:
        sample = trial.build()
        await trial.apply(sample)
        pause = trial.next(sample)
        pausing = await victims.whole("pause", pause)
        resuming = await victims.whole("resume", trial.next(pause))
        number = max(trial.subject.cuts // 2, 1)
        for cut, other in zip(spread(*pausing, number), spread(*resuming, number), strict=False):
            build = trial.build()
            await trial.apply(build)
            pause, resume = trial.next(build), trial.next(trial.next(build))
            await victims.killed("pause", pause, cut)
            await trial.call("pause", pause, trial.another())
            ready = await trial.ready(build.workspace_id)
            expect(not ready, f"after pause was killed {cut} and made again, it is ready")
            await victims.killed("resume", resume, other)
            made = await trial.resume(resume, trial.another())
            same_thing(made, await trial.resume(resume), f"after resume was killed {other} and made again")
            await trial.destroy(trial.next(resume), trial.another())
        await trial.destroy(trial.next(trial.next(trial.next(sample))))
        await trial.expect_existing([], "after destroy of all that was paused and resumed")


def _must_pause(trial: Trial) -> None:
    """Raises:
    Skipped: The driver does not implement the protocol, which is optional, or cannot pause this source's workspaces.
    """
    if not isinstance(trial.driver, PausingProvisioner):
        raise Skipped("it has no pause and resume, so its presets have no standby")
    if not trial.driver.pauses(trial.subject.working_source()):
        raise Skipped("it cannot pause workspaces of this source")
