"""Two deployments on one engine: what each made, and that they have nothing in common.

`python -m tests.e2e.container.side_by_side [ROUNDS]` makes and claims 200 on each, on a podman of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

from prebuilds.provisioners.base import Provision
from prebuilds.provisioners.container.driver import ContainerProvisioner
from prebuilds.provisioners.container.spec import DEPLOYMENT_LABEL
from tests.e2e.container.builds import SLEEP, log
from tests.e2e.engines import container_engine
from tests.e2e.podman import Podman
from tests.e2e.provisions import later, wanted

SOURCE = SLEEP | {"mounts": [{"volume": "home", "target": "/home"}], "network": "none"}
AT_ONCE = 4


@dataclass
class Side:
    """One deployment's driver, and the claims that it has carried out."""

    folder: Path
    deployment_id: UUID = field(default_factory=uuid4)
    claims: list[Provision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.driver = ContainerProvisioner(self.folder, self.deployment_id)

    async def make_and_claim(self, number: int) -> None:
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(n: int) -> None:
            async with slots:
                build = wanted(SOURCE, deployment_id=self.deployment_id)
                await self.driver.apply(build, log)
                claim = later(build, owner=f"user-{n}", name="dev", claimed=True, claim_id=f"claim-{n}")
                await self.driver.claim(claim, log)
                self.claims.append(claim)

        await asyncio.gather(*[one(n) for n in range(number)])

    async def destroy_all(self) -> None:
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(claim: Provision) -> None:
            async with slots:
                await self.driver.destroy(later(claim), log)

        await asyncio.gather(*[one(claim) for claim in self.claims])
        self.claims.clear()


def things(podman: Podman, deployment_id: UUID) -> set[str]:
    """Return names and ids of everything on the engine with the deployment's label."""
    label = f"label={DEPLOYMENT_LABEL}={deployment_id}"
    containers = podman("ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}}", "--filter", label).split()
    return {*containers, *podman("volume", "ls", "--format", "{{.Name}}", "--filter", label).split()}


def everything(podman: Podman) -> set[str]:
    containers = podman("ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}}").split()
    return {*containers, *podman("volume", "ls", "--format", "{{.Name}}").split()}


async def check(podman: Podman, folder: Path, number: int) -> dict[str, int]:
    """Let two deployments create and claim *number* containers each at once; then one destroys its own."""
    before = everything(podman)
    one, other = Side(folder / "one"), Side(folder / "other")
    await asyncio.gather(one.make_and_claim(number), other.make_and_claim(number))
    ours, theirs = things(podman, one.deployment_id), things(podman, other.deployment_id)
    assert len(ours) == len(theirs) == 4 * number, "a container (id and name), its volume and its mark each"
    assert not ours & theirs
    assert everything(podman) - before == ours | theirs
    for side in (one, other):
        items = {item.workspace_id: (item.claimed_by, item.claim_id) for item in await side.driver.inventory()}
        assert items == {claim.workspace_id: (claim.owner, claim.claim_id) for claim in side.claims}
    await one.destroy_all()
    assert things(podman, one.deployment_id) == set()
    assert things(podman, other.deployment_id) == theirs, "the other one's are untouched"
    await other.destroy_all()
    assert everything(podman) == before
    return {"creations_each": number, "claims_each": number, "things": len(ours | theirs), "in_common": 0}


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with container_engine() as podman, tempfile.TemporaryDirectory() as folder:
        os.environ["DOCKER_HOST"] = podman.address
        begun = time.monotonic()
        figures = asyncio.run(check(podman, Path(folder), number))
        print(json.dumps(figures | {"seconds": round(time.monotonic() - begun)}))


if __name__ == "__main__":
    main()
