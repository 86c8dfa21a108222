"""The campaigns of the drivers asked for, on one stack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.e2e.dev_stack import DevStack
from tests.e2e.engines import container_engine
from tests.kill_steps.campaign import Campaign
from tests.kill_steps.things import Containers, Processes, Terraforms, World
from tests.kill_steps.workers import Workers

DRIVERS = ("process", "container", "terraform")


@contextmanager
def campaigns_on(stack: DevStack, folder: Path, drivers: Sequence[str] = DRIVERS) -> Iterator[list[Campaign]]:
    """Begin a campaign for each driver; its workers have ended when the block ends."""
    with ExitStack() as opened:
        workers = opened.enter_context(Workers(stack))
        campaigns = []
        for driver in drivers:
            env: dict[str, str] = {}
            world: World = Processes()
            if driver == "container":
                podman = opened.enter_context(container_engine())
                world, env = Containers(podman), {"DOCKER_HOST": podman.address}
            elif driver == "terraform":
                world = terraforms = Terraforms(folder / "terraform")
                env = {"PREBUILDS_TERRAFORM": str(terraforms.command)}
            host = workers.host(folder / f"host-{driver}", f"kills-{driver}", **env)
            campaign = Campaign(stack, host, world, env)
            opened.callback(world.clear, host)
            opened.callback(host.kill)
            campaign.begin()
            campaigns.append(campaign)
        yield campaigns
