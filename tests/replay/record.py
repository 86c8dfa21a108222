"""Record one history of each workflow type from a real stack: `python -m tests.replay.record NAME`.

Adds files, never changes any: a history stands for what some release has left running out there.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
import sys
import tempfile
from pathlib import Path

from prebuilds.client import connect
from tests.e2e.dev_stack import DevStack, until

HISTORIES = Path(__file__).parent / "histories"


async def fetch(address: str, name: str) -> None:
    client = await connect(address)
    seen: set[str] = set()
    async for found in client.list_workflows():
        kind = found.workflow_type
        history = await client.get_workflow_handle(found.id, run_id=found.run_id).fetch_history()
        if kind in seen or (kind == "PrebuildsOrchestrator" and len(history.events) < 30):
            continue
        seen.add(kind)
        with gzip.open(HISTORIES / f"{name}-{kind}.json.gz", "xt") as file:
            file.write(history.to_json())
    print(sorted(seen))


def main() -> None:
    HISTORIES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        stack = DevStack(Path(folder))
        stack.start()
        try:
            stack.apply("replay", 2, command=["sleep", "infinity"], ready=None)
            stack.wait_whole("replay")
            os.kill(stack.facts["pids"]["control"], signal.SIGKILL)  # in mid-loop, so that its work is repeated
            stack.ask("claim", "--preset", "replay/python/small", "--owner", "alice", "--name", "a", "--wait-ready")
            stack.wait_whole("replay")
            stack.temporal("workflow", "signal", "-w", "prebuilds-orchestrator", "--name", "halt", "--input", '"typo"')
            stack.ask("reconcile", "--wait")
            until(lambda: stack.ask("status")["loop"]["passes"] > 8, "some passes")

            async def through_temporal() -> None:
                from prebuilds.client import PrebuildsClient

                await PrebuildsClient(await connect(stack.facts["temporal_address"])).status()

            asyncio.run(through_temporal())
            stack.ask("stop", "--wait", "--cause", "recorded")
            asyncio.run(fetch(stack.facts["temporal_address"], sys.argv[1]))
        finally:
            stack.stop()


if __name__ == "__main__":
    main()
