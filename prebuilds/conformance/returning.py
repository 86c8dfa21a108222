"""The promise of a driver that implements `HostProvisioner`: what it suspends can be restored."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from prebuilds.conformance.subject import Skipped, expect
from prebuilds.conformance.trial import Trial
from prebuilds.provisioners.base import Provision, Provisioner
from prebuilds.provisioners.optional import HostProvisioner

POLL_S = 0.05


async def suspended_comes_back(trial: Trial) -> None:
    """suspend ends what runs, and restore starts just that again, at the same address"""
    host, other = _host_of(trial.driver), _host_of(trial.subject.driver(trial.state_dir, uuid4()))
    idle, claimed, stopped, later_stopped = (trial.build() for _ in range(4))
    address = (await trial.apply(idle)).address
    for build in (claimed, stopped, later_stopped):
        await trial.apply(build)
    claim, stop, later_stop = trial.claiming(claimed), trial.next(stopped), trial.next(later_stopped)
    await trial.claim(claim)
    await trial.stop(stop)
    expect(await other.suspend() == 0, "suspend of another deployment's driver ends this one's workspaces")
    ended = await host.suspend()
    await trial.expect_existing([(b, False) for b in (idle, claim, stop, later_stopped)], "after suspend")
    expect(ended == 3, f"suspend returns {ended} where 3 workspaces ran")
    await trial.stop(later_stop)
    expect(await other.restore() == [], "restore of another deployment's driver starts this one's workspaces")
    host = _host_of(trial.another())  # the host of the next `prebuilds dev`
    restored = await host.restore()
    names = {build.workspace_id: name for build, name in ((idle, "idle"), (claim, "claimed"), (stop, "stopped"))}
    names[later_stopped.workspace_id] = "stopped while suspended"
    found = sorted(names.get(workspace_id, str(workspace_id)) for workspace_id in restored)
    expect(found == ["claimed", "idle"], f"restore starts {found} instead of what ran, ['claimed', 'idle']")
    await host.wait_restored(restored)
    expect(await trial.ready(idle.workspace_id), "an unclaimed workspace is not ready after wait_restored")
    await _wait_ready(trial, claim)
    running = [(idle, True), (claim, True), (stop, False), (later_stop, False)]
    await trial.expect_existing(running, "after restore")
    expect(await host.restore() == [], "a second restore starts something again")
    again = (await trial.apply(idle)).address
    expect(again == address, f"after restore, the address went from {address} to {again}")


def _host_of(driver: Provisioner) -> HostProvisioner:
    """Raises:
    Skipped: The driver does not implement the protocol, which is optional.
    """
    if not isinstance(driver, HostProvisioner):
        raise Skipped("it has no suspend, restore and wait_restored, so its workspaces are left alone by prebuilds dev")
    return driver


async def _wait_ready(trial: Trial, build: Provision) -> None:
    """Wait for a claimed workspace, for which `wait_restored` does not wait; give up after `ready_timeout_s`."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + build.ready_timeout_s
    while not await trial.ready(build.workspace_id) and clock() < deadline:  # noqa: ASYNC110 - nothing tells when
        await asyncio.sleep(POLL_S)
