"""Measures the time from a claim to a usable workspace: from a ready prebuild, from a paused one, and created for the
claim.

    python -m benchmarks.tiers [--driver process|container|both] [--claims 10]

Everything is real: a stack of its own with a worker of every role, templates of the `process` and the `container`
driver, and claims one after the other, each on an otherwise idle system. A workspace is usable when the claim's build
has succeeded, which requires that the workspace answers. The container driver needs an engine (`DOCKER_HOST`) and an
image with a shell and busybox' httpd (`--image`). `--setup` is the time that setting up a new workspace takes, as a
clone and an install would; a resumed one needs no set-up.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.stacks import print_report, run, stack, worker
from prebuilds.bench.figures import Report, Sample
from prebuilds.client import PrebuildsClient
from prebuilds.planning.rules import Rules
from prebuilds.store.engine import create_engine
from prebuilds.store.status import read_status
from prebuilds.templates import TemplateFile, apply
from prebuilds.views import PresetRow

WAIT_S = 120.0
PORT = 8000
KINDS = {"ready": (1, 0), "paused": (0, 1), "made for the claim": (0, 0)}
"""Kind of claim -> number of ready and of paused prebuilds that are kept for it."""


def source_of(driver: str, setup_s: float, image: str) -> dict[str, Any]:
    """Return a source whose workspaces are set up once before they serve."""
    home = "." if driver == "process" else "/home"
    setup = f"test -e {home}/index.html || (sleep {setup_s:g}; echo ready > {home}/index.html)"
    if driver == "process":
        serve = "exec python3 -m http.server {port} --bind 127.0.0.1"
        return {"command": ["sh", "-c", f"{setup}; {serve}"], "ready": {"http": "/"}}
    return {
        "image": image,
        "command": ["sh", "-c", f"{setup}; exec httpd -f -p {PORT} -h {home}"],
        "ports": [PORT],
        "mounts": [{"volume": "home", "target": home}],
        "ready": {"http": "/"},
        "pull": "missing",
        "stop_timeout": "0s",
    }


async def measure(
    client: PrebuildsClient, row_of: Callable[[], Awaitable[PresetRow]], driver: str, kind: str, claims: int
) -> Sample:
    """Claim repeatedly, each time after the pool is complete and all builds have ended."""
    ready, paused = KINDS[kind]
    sample = Sample(f"{driver}, {kind}")
    for n in range(claims):
        deadline = time.monotonic() + WAIT_S
        while True:
            row = await row_of()
            under_way = row.starting + row.pausing + row.stopping + row.deleting + row.pending_builds
            if (row.eligible, row.paused, under_way) == (ready, paused, 0):
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"the pool of {driver} is not whole: {row}")
            await asyncio.sleep(0.2)
        name = f"{driver[0]}{ready}{paused}-{n}"
        begun = time.perf_counter()
        won = await client.claim(preset=f"tiers/{driver}/one", owner="alice", name=name, on_empty="create")
        await client.wait_until_ready(won)
        sample.took_ms.append((time.perf_counter() - begun) * 1000)
        assert won.source == ("prebuilt" if ready else "paused" if paused else "created"), won
        await client.release(str(won.workspace_id))
    return sample


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", choices=["process", "container", "both"], default="process")
    parser.add_argument("--claims", type=int, default=10)
    parser.add_argument("--setup", type=float, default=5.0, help="seconds; 5 unless said")
    parser.add_argument("--image", default="busybox:latest")
    options = parser.parse_args()
    drivers = ["process", "container"] if options.driver == "both" else [options.driver]
    async with stack(worker("all")) as running:
        engine = create_engine(running.database_url)
        client = await PrebuildsClient.connect(running.temporal_address)
        await client.start()
        for driver in drivers:
            samples = []
            for kind, (ready, paused) in KINDS.items():
                preset = {"name": "one", "instances": ready, "standby": {"paused": paused}}
                source = source_of(driver, options.setup, options.image)
                template = {"name": driver, "provisioner": driver, "source": source, "presets": [preset]}
                organization = {"name": "tiers", "members": ["alice"], "templates": [template]}
                file = TemplateFile.model_validate({"organizations": [organization]})
                await apply(engine, file, actor="bench")
                await client.reconcile()

                async def row_of() -> PresetRow:
                    found = await read_status(engine, Rules())
                    return next(row for row in found.presets if row.template == driver and row.active)  # noqa: B023

                samples.append(await measure(client, row_of, driver, kind, options.claims))
            title = f"claim to usable, {options.claims} claims each, a new workspace is set up for {options.setup:g} s"
            print_report(Report(title=title, figures=[sample.figure() for sample in samples]))
        await engine.dispose()


if __name__ == "__main__":
    run(main())
