"""Promises that hold when a call is cut off: cancelled by a person, or killed with its worker."""

from __future__ import annotations

import asyncio

from prebuilds.conformance.cuts import Cut, cancelled, spread
from prebuilds.conformance.subject import expect
from prebuilds.conformance.trial import Kept, Trial, same_thing
from prebuilds.conformance.victims import Victims, using_victims
from prebuilds.provisioners.base import Provision


async def cancel_is_prompt(trial: Trial) -> None:
    """a cancelled call ends soon, with CancelledError"""
    _, seconds = await _uncut(trial)
    build = trial.build()
    await cancelled(trial, "apply", build, Cut(after_s=seconds / 2))
    await trial.apply(build)
    claim = trial.claiming(build)
    await cancelled(trial, "claim", claim, Cut(after_s=seconds / 4))


async def cancelled_half_way(trial: Trial) -> None:
    """apply that was cancelled, at its steps or between them, and is repeated makes one thing"""
    progress, seconds = await _uncut(trial)
    for cut in spread(progress.steps, seconds, trial.subject.cuts):
        build = trial.build()
        await cancelled(trial, "apply", build, cut)
        await _whole_again(trial, build, f"after apply was cancelled {cut} and made again")


async def killed_half_way(trial: Trial) -> None:
    """apply that was killed with its worker, at its steps or between them, and is repeated makes one thing"""
    async with using_victims(trial) as victims:
        for n, cut in enumerate(await _cuts(trial, victims, "apply", trial.build(), trial.subject.cuts)):
            build = trial.build()
            await victims.killed("apply", build, cut)
            if await trial.ready(build.workspace_id):
                found = await trial.existing()
                expect(build.workspace_id in found, f"killed {cut}, it is ready, but the inventory lacks it")
            await _whole_again(trial, build, f"after apply was killed {cut} and made again")
            if n % 2 == 0:
                unfinished = trial.build()
                await victims.killed("apply", unfinished, cut)
                await trial.destroy(trial.next(unfinished), trial.another())
                await trial.expect_existing([], f"after apply was killed {cut} and the workspace destroyed")


async def killed_while_claiming(trial: Trial) -> None:
    """claim that was killed with its worker and is repeated hands over the one workspace"""
    async with using_victims(trial) as victims:
        sample = trial.build()
        await trial.apply(sample)
        for cut in await _cuts(trial, victims, "claim", trial.claiming(sample), max(trial.subject.cuts // 2, 1)):
            build = trial.build()
            await trial.apply(build)
            claim = trial.claiming(build)
            await victims.killed("claim", claim, cut)
            when = f"after claim was killed {cut} and made again"
            same_thing(await trial.claim(claim, trial.another()), await trial.claim(claim), when)
            await trial.expect_existing([(claim, True)], when)
            await trial.destroy(trial.next(claim), trial.another())


async def killed_while_destroying(trial: Trial) -> None:
    """destroy that was killed with its worker and is repeated leaves nothing, and an older apply stays refused"""
    async with using_victims(trial) as victims:
        sample = trial.build()
        await trial.apply(sample)
        for cut in await _cuts(trial, victims, "destroy", trial.next(sample), max(trial.subject.cuts // 2, 1)):
            build = trial.build()
            await trial.apply(build)
            gone = trial.next(build)
            await victims.killed("destroy", gone, cut)
            await trial.destroy(gone, trial.another())
            await trial.expect_existing([], f"after destroy was killed {cut} and made again")
            await trial.refuses("apply", build, f"after destroy was killed {cut} and made again")


async def _uncut(trial: Trial) -> tuple[Kept, float]:
    """Return the progress of an apply that is not cut off, and its duration in seconds."""
    build, clock = trial.build(), asyncio.get_running_loop().time
    progress, begun = trial.kept(build), clock()
    await trial.call("apply", build, progress=progress)
    seconds = clock() - begun
    await trial.destroy(trial.next(build))
    return progress, seconds


async def _cuts(trial: Trial, victims: Victims, name: str, build: Provision, number: int) -> list[Cut]:
    """Return the moments at which to kill such a call, measured on one that runs to its end and is removed again."""
    steps, seconds = await victims.whole(name, build)
    await trial.destroy(trial.next(build), trial.another())
    return spread(steps, seconds, number)


async def _whole_again(trial: Trial, build: Provision, when: str) -> None:
    """Repeat the apply, expect one workspace, and remove it."""
    made = await trial.apply(build, trial.another())
    same_thing(made, await trial.apply(build), when)
    await trial.expect_existing([(build, True)], when)
    await trial.destroy(trial.next(build), trial.another())
    await trial.expect_existing([], f"{when}, and destroyed")
