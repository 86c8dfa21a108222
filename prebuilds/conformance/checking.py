"""Checks of a driver that implements `CheckingProvisioner`: a drill's command runs in the workspace, and is ended."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Collection, Mapping
from uuid import UUID

import psutil

from prebuilds.api import PrebuildsError, ProvisionFailed
from prebuilds.conformance.subject import Skipped, Violation, expect
from prebuilds.conformance.trial import Trial, error_text
from prebuilds.provisioners.optional import CheckEnded, CheckingProvisioner

LIMIT_S = 60.0
"""The time limit of commands that end by themselves. A driver that waits for such a command's children takes this
long."""
NOT_FOUND = (126, 127)
"""Exit codes of a shell that cannot find or may not run a program."""
OUTPUT_MAX = 100_000
"""Maximum number of characters of output: ten times what a driver should return."""
POLL_S = 0.1


async def check_tells_how_it_ended(trial: Trial) -> None:
    """run_check returns a command's status and output, with its variables, and raises where it cannot run"""
    driver = _must_check(trial)
    build = trial.build()
    await trial.apply(build)

    async def run(script: str, env: Mapping[str, str] | None = None) -> CheckEnded:
        return await driver.run_check(build.workspace_id, ["sh", "-c", script], env or {}, LIMIT_S)

    ended = await run('echo "$SAID"; echo more >&2; exit 3', {"SAID": "a b"})
    expect(ended.code == 3, f"a command that exits with 3 ended with {ended.code}")
    lines = ended.output.splitlines()
    expect("a b" in lines, f"a command that prints its variable has the output {ended.output!r}")
    expect("more" in lines, f"what a command writes to its standard error is not in {ended.output!r}")
    expect((await run("exit 0")).code == 0, "a command that succeeds has another status than 0")
    much = await run("i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i + 1)); done")
    expect(much.output.endswith("19999\n"), "of much output, the end is not kept")
    expect(len(much.output) <= OUTPUT_MAX, f"{len(much.output)} characters of output are kept")
    await _refuses(driver, build.workspace_id, "no-such-program-here", "of a program that does not exist", NOT_FOUND)
    stop = trial.next(build)
    await trial.stop(stop)
    await _refuses(driver, build.workspace_id, "true", "in a workspace that is stopped")
    await trial.expect_existing([(stop, False)], "after run_check in a stopped workspace")


async def check_ends_in_time(trial: Trial) -> None:
    """run_check waits for its command alone and no longer than told, and nothing of it outlives the workspace"""
    driver = _must_check(trial)
    build = trial.build()
    await trial.apply(build)
    child, endless = (str(10**8 + secrets.randbelow(10**8)) for _ in range(2))  # no other process sleeps as long

    async def run(script: str, timeout_s: float) -> tuple[CheckEnded, float]:
        begun = time.monotonic()
        ended = await driver.run_check(build.workspace_id, ["sh", "-c", script], {}, timeout_s)
        return ended, time.monotonic() - begun

    ended, took_s = await run(f"sleep {child} & echo begun; exit 5", LIMIT_S)
    expect(ended.code == 5, f"a command that leaves a child, and exits with 5, ended with {ended.code}")
    expect(took_s < LIMIT_S / 2, f"a child that has the command's output was waited for: {took_s:.0f} s")
    ended, took_s = await run(f"echo begun; sleep {endless}; echo over", 1.0)
    expect(ended.code is None, f"a command that does not end in time has the status {ended.code} instead of None")
    expect("begun" in ended.output, f"the output before the time was over is not in {ended.output!r}")
    expect(took_s < 1.0 + trial.subject.prompt_s, f"with a limit of 1 s it took {took_s:.0f} s")
    await trial.expect_existing([(build, True)], "after run_check")
    await trial.destroy(trial.next(build))
    left = await _left(child, endless, trial.subject.prompt_s)
    expect(not left, f"after destroy, a check's command still runs: {left}")


async def _refuses(
    driver: CheckingProvisioner, workspace_id: UUID, program: str, what: str, allowed: Collection[int] = ()
) -> None:
    """Expect `ProvisionFailed`, or one of the statuses that are *allowed*."""
    try:
        ended = await driver.run_check(workspace_id, [program], {}, LIMIT_S)
    except ProvisionFailed:
        return
    except PrebuildsError as error:
        raise Violation(f"run_check {what} raised {error_text(error)} instead of ProvisionFailed") from error
    expect(ended.code in allowed, f"run_check {what} ended with {ended.code} instead of ProvisionFailed")


async def _left(child: str, endless: str, within_s: float) -> list[str]:
    """Return the commands on this host that still sleep for one of these times after *within_s*. Of a remote host
    nothing is seen."""
    ends_at = time.monotonic() + within_s
    while True:
        commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        left = [" ".join(words) for words in commands if {child, endless} & set(words)]
        if not left or time.monotonic() > ends_at:
            return left
        await asyncio.sleep(POLL_S)


def _must_check(trial: Trial) -> CheckingProvisioner:
    """Raises:
    Skipped: The driver does not implement the protocol, which is optional.
    """
    if not isinstance(trial.driver, CheckingProvisioner):
        raise Skipped("it has no run_check, so drill.command is refused for its templates")
    return trial.driver
