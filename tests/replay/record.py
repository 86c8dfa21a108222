"""Record one history of each workflow type, or of the types named, from a real stack:
`python -m tests.replay.record NAME [TYPE ...]`.

Adds files, never changes any: a history stands for what some release has left running out there.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimsRequest
from prebuilds.temporal.connecting import connect
from prebuilds.vocabulary import OnEmpty
from tests.e2e.dev_stack import DevStack, until

HISTORIES = Path(__file__).parent / "histories"


async def fetch(address: str, name: str, wanted: Sequence[str]) -> None:
    """Store one history of each kind, the newest; of claims that waited one for each way to end."""
    client = await connect(address)
    seen: set[str] = set()
    async for found in client.list_workflows():
        history = await client.get_workflow_handle(found.id, run_id=found.run_id).fetch_history()
        kind = found.workflow_type
        if kind == "ClaimWorkspace" and any(e.HasField("timer_started_event_attributes") for e in history.events):
            kind = f"{found.status.name.lower() if found.status else 'running'}-{kind}"
        unwanted = wanted and found.workflow_type not in wanted
        if unwanted or kind in seen or (kind == "PrebuildsOrchestrator" and len(history.events) < 30):
            continue
        seen.add(kind)
        with gzip.open(HISTORIES / f"{name}-{kind}.json.gz", "xt") as file:
            file.write(history.to_json())
    print(sorted(seen))


def wait_in_every_way(stack: DevStack) -> None:
    """Claims that wait: one is served, one is late, one is cancelled."""
    stack.apply("queue", 0, command=["sleep", "infinity"], ready=None)
    waits = ("claim", "--preset", "queue/python/small", "--owner", "alice", "--on-empty", "wait")
    stack.ask(*waits, "--name", "served", "--timeout", "60s")
    stack.ask("pause", "--reason", "nobody is served")
    stack.cli(*waits, "--name", "late", "--timeout", "5s")
    asked = {"preset": "queue/python/small", "owner": "alice", "name": "canceled", "on_empty": "wait"}
    workflow = ("-w", "claim-workspace/canceled")
    stack.temporal(
        *("workflow", "start", *workflow, "--type", "ClaimWorkspace", "--task-queue", "prebuilds-claims"),
        *("--input", json.dumps(asked)),
    )
    until(lambda: "waiting" in stack.temporal("workflow", "query", *workflow, "--type", "status").out, "the wait")
    stack.temporal("workflow", "cancel", *workflow)
    stack.ask("resume")


def main() -> None:
    HISTORIES.mkdir(exist_ok=True)
    name, *wanted = sys.argv[1:]
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
            wait_in_every_way(stack)
            until(lambda: stack.ask("status")["loop"]["passes"] > 8, "some passes")

            async def through_temporal() -> None:
                client = PrebuildsClient(await connect(stack.facts["temporal_address"]))
                await client.status()
                request = ClaimsRequest(preset="replay/python/small", owner="bob", names=["x", "y"])
                await client.claim_all(request.model_copy(update={"on_empty": OnEmpty.CREATE}))

            asyncio.run(through_temporal())
            stack.ask("inventory")
            stack.wait_whole("replay")
            stack.ask("presets", "lint", "replay/python/small")
            stack.ask("stop", "--wait", "--cause", "recorded")
            asyncio.run(fetch(stack.facts["temporal_address"], name, wanted))
        finally:
            stack.stop()


if __name__ == "__main__":
    main()
