"""Steps of the stories, and the sources of their templates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import yaml
from temporalio.client import WorkflowExecutionStatus

from prebuilds.client import PrebuildsClient
from tests.e2e.dev_stack import DevStack, until

T = TypeVar("T")
QUICK = {"command": ["sleep", "infinity"], "ready": None}
NEVER_READY = {"command": ["sleep", "infinity"], "ready": {"file": "never"}}
SLOW = {"command": ["sh", "-c", "sleep 3; touch ready; exec sleep infinity"], "ready": {"file": "ready"}}
BROKEN = {"command": ["false"], "ready": {"file": "never"}}


def path_of(organization: str) -> str:
    return f"{organization}/python/small"


@contextmanager
def drill_of(stack: DevStack, organization: str, **drill: Any) -> Iterator[str]:
    """Give the template of a pool a drill for the block; yields the template's path."""
    path = stack.files / f"{organization}.yaml"
    before = path.read_text()
    file = yaml.safe_load(before)
    file["organizations"][0]["templates"][0]["drill"] = {"schedule": "0 3 * * *", **drill}
    path.write_text(yaml.safe_dump(file))
    assert stack.cli("apply", "-f", str(path)).code == 0
    try:
        yield f"{organization}/python"
    finally:
        path.write_text(before)
        assert stack.cli("apply", "-f", str(path)).code == 0


def claim_words(organization: str, name: str, *more: str) -> tuple[str, ...]:
    return ("claim", "--preset", path_of(organization), "--owner", "alice", "--name", name, *more)


def ask_client(stack: DevStack, ask: Callable[[PrebuildsClient], Awaitable[T]]) -> T:
    async def go() -> T:
        return await ask(await PrebuildsClient.connect(stack.facts["temporal_address"]))

    return asyncio.run(go())


def begin(stack: DevStack, kind: str, workflow: str, queue: str, given: Any) -> None:
    """Start a workflow as a service in any language does, and do not wait for it."""
    result = stack.temporal(
        *("workflow", "start", "-w", workflow, "--type", kind, "--task-queue", queue, "--input", json.dumps(given))
    )
    assert result.code == 0, result


def until_closed(stack: DevStack, workflow: str, timeout_s: float = 60) -> None:
    until(
        lambda: stack.workflow_status(workflow) not in (None, WorkflowExecutionStatus.RUNNING),
        f"the end of {workflow}",
        timeout_s,
    )


@contextmanager
def locked(stack: DevStack, *organizations: str) -> Iterator[None]:
    """Hold the rows of these pools' presets, so that no pass of theirs can write until the block ends."""
    presets = [UUID(stack.preset(organization)["preset_id"]) for organization in organizations]
    with asyncio.Runner() as runner:
        url = stack.facts["database_url"].replace("postgresql+asyncpg", "postgresql")
        connection = runner.run(asyncpg.connect(url))
        try:
            runner.run(connection.execute("BEGIN"))
            # Not FOR UPDATE: claims, whose rows refer to the preset, go on.
            held = "SELECT 1 FROM presets WHERE id = ANY($1) FOR NO KEY UPDATE"
            runner.run(connection.execute(held, presets))
            yield
        finally:
            runner.run(connection.close())
