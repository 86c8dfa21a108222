"""Two whole stacks of one template file on one engine; then one of them loses its state folder and is made anew.

`python -m tests.e2e.container.two_stacks [NUMBER]` has 200 containers made and claimed on each, on a podman of its own.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import yaml

from prebuilds.payloads import ClaimResult
from tests.e2e.dev_stack import DevStack, until
from tests.e2e.engines import container_engine
from tests.e2e.podman import IMAGE, Podman

ORGANIZATION = "twins"
POOL = 10
# Each container prints what it finds in its volume, and writes a file there.
SCRIPT = "cat /home/* ; echo LEFT-BY-{workspace_id} > /home/left; while true; do sleep 1; done"
SOURCE = {
    "image": IMAGE,
    "command": ["sh", "-c", SCRIPT],
    "pull": "never",
    "stop_timeout": "0s",
    "mounts": [{"volume": "home", "target": "/home"}],
    "network": "none",
}


def begin(folder: Path, podman: Podman) -> DevStack:
    """Start a stack, and wait until its pool of `POOL` is full."""
    folder.mkdir(exist_ok=True)
    stack = DevStack(folder, DOCKER_HOST=podman.address)
    stack.start()
    presets = [{"name": "small", "instances": POOL}]
    template = {"name": "python", "provisioner": "container", "source": SOURCE, "presets": presets}
    file = folder / "twins.yaml"
    organization = {"name": ORGANIZATION, "members": ["alice", "bob"], "templates": [template]}
    file.write_text(yaml.safe_dump({"organizations": [organization]}))
    assert stack.cli("apply", "-f", str(file)).code == 0
    stack.wait_whole(ORGANIZATION, 120)
    return stack


def claim_all(stack: DevStack, podman: Podman, number: int) -> dict[str, set[str]]:
    """Claim *number* workspaces, release them batch by batch, and return their ids, names and volumes."""
    seen: dict[str, set[str]] = {"ids": set(), "names": set()}
    label = f"label=prebuilds.deployment={stack.facts['deployment_id']}"
    for batch in range(number // POOL):
        stack.wait_whole(ORGANIZATION, 120)
        names = [f"w{batch}-{n}" for n in range(POOL)]
        claimed = [c for c in stack.claim_at_once(ORGANIZATION, names) if isinstance(c, ClaimResult)]
        assert len(claimed) == POOL
        seen["ids"] |= {str(c.workspace_id) for c in claimed} | {str(c.build_id) for c in claimed}
        seen["names"] |= {*podman("ps", "--all", "--format", "{{.Names}}", "--filter", label).split()}
        seen["names"] |= {*podman("volume", "ls", "--format", "{{.Name}}", "--filter", label).split()}
        for c in claimed:
            stack.ask("release", str(c.workspace_id))
    return seen


def nothing_was_found(podman: Podman, stack: DevStack) -> int:
    """Check that no container of the stack has found files in its volume; return the number of containers."""
    label = f"label=prebuilds.deployment={stack.facts['deployment_id']}"
    containers = podman("ps", "--quiet", "--filter", label).split()
    for container in containers:
        assert "LEFT-BY" not in podman("logs", container), "what another workspace has left"
    return len(containers)


def check_both(podman: Podman, folder: Path, number: int) -> dict[str, int]:
    one, other = begin(folder / "one", podman), begin(folder / "other", podman)
    try:
        ours, theirs = claim_all(one, podman, number), claim_all(other, podman, number)
        assert not ours["ids"] & theirs["ids"]
        assert not ours["names"] & theirs["names"]
        claims = [one.ask("claim", "--preset", f"{ORGANIZATION}/python/small", "--owner", "alice", "--name", "lost")]
        until(lambda: claims[0]["workspace_id"] in podman("volume", "ls", "--format", "{{.Name}}"), "its volume")
        before = one.facts["deployment_id"]
        one.stop()  # its containers run on
        shutil.rmtree(folder / "one")
        one = begin(folder / "one", podman)
        assert one.facts["deployment_id"] != before
        claimed_again = claim_all(one, podman, POOL)
        assert not claimed_again["ids"] & ours["ids"]
        checked = nothing_was_found(podman, one) + nothing_was_found(podman, other)
        left = claims[0]["workspace_id"] in podman("ps", "--all", "--format", "{{.Names}}")
        assert left, "what the lost deployment's people have is left alone"
        return {"claims_each": number, "ids": len(ours["ids"] | theirs["ids"]), "in_common": 0, "looked_into": checked}
    finally:
        for stack in (one, other):
            stack.stop()


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with container_engine() as podman, tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        figures = check_both(podman, Path(folder), number)
        print(json.dumps(figures | {"seconds": round(time.monotonic() - begun)}))


if __name__ == "__main__":
    main()
