"""Record a history of each case from a real stack: `python -m tests.replay.record NAME [TYPE ...]`.

It adds files and never changes any: a history stands for the open runs of some release. NAME is the
prefix of the new files. Workflow types, when given, restrict what is stored, and a case that NAME has is left out. It
takes about four minutes, and ends with status 1 and a list of the missing cases, if any.
"""

from __future__ import annotations

import asyncio
import gzip
import sys
import tempfile
import traceback
from collections.abc import Collection
from pathlib import Path

from temporalio.client import WorkflowHistory

from prebuilds.temporal.connecting import connect
from tests.e2e.dev_stack import DevStack
from tests.replay.cases import CASES
from tests.replay.steps import shows, steps_of
from tests.replay.stories import tell

HISTORIES = Path(__file__).parent / "histories"


class RenewingStack(DevStack):
    """A stack whose Temporal suggests early to continue as new, so that a loop's whole life is a short history."""

    temporal_options = ("--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=300")


async def fetch(address: str, kinds: Collection[str]) -> dict[str, list[WorkflowHistory]]:
    """Return all histories of each workflow type, the shortest first."""
    client = await connect(address)
    found: dict[str, list[WorkflowHistory]] = {kind: [] for kind in kinds}
    async for one in client.list_workflows():
        if one.workflow_type in found:
            handle = client.get_workflow_handle(one.id, run_id=one.run_id)
            found[one.workflow_type].append(await handle.fetch_history())
    for histories in found.values():
        histories.sort(key=lambda history: len(history.events))
    return found


def store(name: str, found: dict[str, list[WorkflowHistory]]) -> list[str]:
    """Write the shortest history of each case. Returns the cases without one."""
    missing = []
    for kind, histories in found.items():
        walked = [(history, steps_of(history)) for history in histories]
        for case, pattern in CASES[kind].items():
            path = HISTORIES / f"{name}-{case}-{kind}.json.gz"
            if path.exists():
                continue
            history = next((history for history, steps in walked if shows(steps, pattern)), None)
            if history is None:
                missing.append(f"{kind} {case}")
                print(*(" ".join(steps[:60]) for _, steps in walked[-12:]), sep="\n  ")
                continue
            with gzip.open(path, "xt") as file:
                file.write(history.to_json())
    return missing


def main() -> None:
    HISTORIES.mkdir(exist_ok=True)
    name, *kinds = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        stack = RenewingStack(Path(folder), PREBUILDS_MAX_PARALLEL_PRESETS="2")
        stack.start()
        try:
            try:
                tell(stack, Path(folder))
            except Exception:  # the cases recorded so far are kept
                traceback.print_exc()
            missing = store(name, asyncio.run(fetch(stack.facts["temporal_address"], kinds or list(CASES))))
        finally:
            stack.stop()
    if missing:
        sys.exit(f"not shown: {', '.join(missing)}")


if __name__ == "__main__":
    main()
