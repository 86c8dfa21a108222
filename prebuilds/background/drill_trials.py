"""Tries out a workspace that a drill has claimed, on the host that can reach it: waits until it is ready, and runs the
template's check."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

from prebuilds.api import ProvisionFailed
from prebuilds.planning.drills import DrillPolicy
from prebuilds.provisioners.base import Provisioner
from prebuilds.provisioners.optional import CheckEnded, CheckingProvisioner
from prebuilds.store.drill_steps import Trial, last_lines
from prebuilds.vocabulary.drills import DrillStage
from prebuilds.vocabulary.words import one_line

POLL_S = 0.05
POLL_MAX_S = 2.0
PROBE_TIMEOUT_S = 10.0
"""Longer than any driver waits for a workspace's answer: 8 s at most."""
ADDRESS = "PREBUILDS_ADDRESS"
"""The environment variable that gives a check the workspace's address."""


@dataclass(frozen=True)
class TrialEnd:
    """The result of a trial."""

    stage: DrillStage | None = None
    """The step that failed; None if none did."""
    reason: str | None = None
    evidence: list[str] = field(default_factory=list)
    ready_seconds: float | None = None
    """Seconds until the workspace was ready; None if it never was."""


async def try_workspace(driver: Provisioner, trial: Trial) -> TrialEnd:
    """Wait until a workspace is ready, then run its template's check.

    Raises:
        ProvisionerUnavailable: This host cannot reach it now, so nothing is known about the workspace.
    """
    clock = asyncio.get_running_loop().time
    begun, timeout = clock(), trial.policy.timeout
    if not await _wait_ready(driver, trial, timeout):
        return TrialEnd("ready", f"not ready within {timeout.total_seconds():g} s of the hand-over")
    ready_s = clock() - begun
    failure = await _check(driver, trial)
    if failure is None:
        return TrialEnd(ready_seconds=ready_s)
    return TrialEnd("check", failure.reason, failure.evidence, ready_s)


async def _wait_ready(driver: Provisioner, trial: Trial, timeout: timedelta) -> bool:
    pause = POLL_S
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            while True:
                try:
                    async with asyncio.timeout(PROBE_TIMEOUT_S):
                        if await driver.probe(trial.workspace_id):
                            return True
                except TimeoutError:
                    pass
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, POLL_MAX_S)
    except TimeoutError:
        return False


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    evidence: list[str] = field(default_factory=list)


async def _check(driver: Provisioner, trial: Trial) -> _Failure | None:
    policy = trial.policy
    if policy.command is not None:
        return await _run(driver, trial, policy)
    if policy.http_path is not None:
        return await _get(trial, policy.http_path, policy)
    return None


async def _run(driver: Provisioner, trial: Trial, policy: DrillPolicy) -> _Failure | None:
    words, timeout_s = policy.command or (), policy.timeout.total_seconds()
    if not isinstance(driver, CheckingProvisioner):
        return _Failure(f"the provisioner {trial.provisioner} cannot run a command in a workspace; give http instead")
    env = {} if trial.address is None else {ADDRESS: trial.address}
    try:
        ended: CheckEnded = await driver.run_check(trial.workspace_id, words, env, timeout_s)
    except ProvisionFailed as error:
        return _Failure(one_line(error.message), last_lines(error.message))
    if ended.code == 0:
        return None
    how = f"did not end within {timeout_s:g} s" if ended.code is None else f"ended with status {ended.code}"
    return _Failure(f"the check's command {how}", last_lines(ended.output))


async def _get(trial: Trial, path: str, policy: DrillPolicy) -> _Failure | None:
    """Request a path below the workspace's address. Only the answer's status is checked; its body is not read."""
    import httpx  # imported here, since it takes a tenth of a second and few templates need it

    if trial.address is None:
        return _Failure("the workspace has no address that http could ask")
    address = trial.address if "://" in trial.address else f"http://{trial.address}"
    timeout_s = policy.timeout.total_seconds()
    try:
        async with (
            asyncio.timeout(timeout_s),
            httpx.AsyncClient(trust_env=False, timeout=timeout_s) as client,
            client.stream("GET", address.rstrip("/") + path) as answer,
        ):
            status = answer.status_code
    except TimeoutError:
        return _Failure(f"GET {path} had no answer within {timeout_s:g} s")
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return _Failure(f"GET {path} had no answer ({type(error).__name__})", last_lines(str(error)))
    wanted = policy.http_status
    if status == wanted or (wanted is None and status < 400):
        return None
    expected = f", and {wanted} is wanted" if wanted is not None else ""
    return _Failure(f"GET {path} was answered with status {status}{expected}")
