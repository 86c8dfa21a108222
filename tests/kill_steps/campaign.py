"""One driver under kills: a worker dies at a step, another one goes on, and what exists is counted."""

from __future__ import annotations

import asyncio
import json
import os
from itertools import count
from pathlib import Path
from unittest.mock import patch

from prebuilds import provisioners
from tests.e2e.dev_stack import DevStack, until
from tests.kill_steps.steps import RETURNED
from tests.kill_steps.things import World
from tests.kill_steps.workers import Host

TEMPLATE = """
organizations:
  - name: {name}
    members: [alice]
    templates:
      - name: desk
        provisioner: {driver}
        queue: {name}
        source: {source}
        ready_timeout: 30s
        presets:
          - {{name: one, instances: {instances}, standby: {{paused: {standby}}}}}
"""
SETTLES_S = 60.0
KINDS = ("claim", "destroy", "apply", "pause", "resume")
"""In this order each begins with what the one before it has left: a pool of one, and of one paused before a resume."""

_names = count(1)


class Campaign:
    def __init__(self, stack: DevStack, host: Host, world: World, env: dict[str, str]) -> None:
        self.driver = world.driver
        self.name = f"kills-{world.driver}"
        self._stack = stack
        self._host = host
        self._world = world
        self._env = env
        self._claimed: str | None = None
        self._paused = False
        self.kinds = KINDS if world.paused else KINDS[:3]

    def begin(self) -> None:
        """Make a pool of one."""
        self._apply(1)
        self._host.start()

    def settled(self) -> None:
        """Wait until everything is as it should be."""
        self._stack.wait_whole(self.name, SETTLES_S)
        rows, expected = {}, 1 + (self._claimed is not None)
        status = "paused" if self._paused else "running"

        def agree() -> bool:
            nonlocal rows
            rows = {w["id"]: w["status"] for w in self._stack.workspaces(self.name)}
            return len(rows) == expected and set(rows.values()) == {status} and self._counted(set(rows))

        try:
            until(agree, "rows and things agree", SETTLES_S)
        except AssertionError as error:
            raise AssertionError(f"{error}; rows {rows}, things {self._world.count(self._host)}") from None
        self._ask_the_driver(set(rows))

    def provoke(self, kind: str, at: int | str) -> None:
        """Give such a build to a worker that kills itself at a step."""
        self._host.kill()
        self._host.start(kind=kind, at=at)
        if kind == "claim":
            claim = ("claim", "--preset", f"{self.name}/desk/one", "--owner", "alice", "--name", f"n{next(_names)}")
            self._claimed = self._stack.ask(*claim)["workspace_id"]
        elif kind == "destroy":
            assert self._claimed is not None
            assert self._stack.cli("release", self._claimed).code == 0
            self._claimed = None
        elif kind in ("pause", "resume"):
            self._paused = kind == "pause"
            self._apply(int(not self._paused), standby=int(self._paused))
        else:
            assert self._stack.cli("presets", "invalidate", f"{self.name}/desk/one").code == 0

    def killed_at(self) -> str | None:
        """Return the step of the kill once another worker runs; None if the effect had no such step."""

        def over() -> bool:
            steps = self._host.steps()
            return not self._host.alive() or bool(steps and steps[-1].endswith(f" {RETURNED}"))

        until(over, f"{self.name}'s worker to come to its step; so far {self._host.steps()}", SETTLES_S)
        step = self._host.signalled_at()
        if step is not None:
            until(lambda: not self._host.alive(), "the worker to die")
            self._host.start()
        return step

    def steps(self) -> list[str]:
        """Return the driver's steps so far in the counted call."""
        return self._host.steps()

    def end(self) -> None:
        """Empty the pool; nothing may be left, and no build may wait on a queue without a worker."""
        if self._claimed is not None:
            assert self._stack.cli("release", self._claimed).code == 0
            self._claimed = None
        self._apply(0)
        until(lambda: not self._stack.workspaces(self.name), f"{self.name} to be empty", SETTLES_S)
        until(lambda: self._world.count(self._host) == {}, f"no thing of {self.name}", SETTLES_S)
        self._ask_the_driver(set())
        assert self._stack.cli("templates", "delete", f"{self.name}/desk").code == 0
        self._host.kill()

    def _apply(self, instances: int, standby: int = 0) -> None:
        world = self._world
        path = self._stack.files / f"{self.name}.yaml"
        source = json.dumps(world.source)
        path.write_text(
            TEMPLATE.format(name=self.name, driver=world.driver, source=source, instances=instances, standby=standby)
        )
        result = self._stack.cli("apply", "-f", str(path))
        assert result.code == 0, result

    def _counted(self, ids: set[str]) -> bool:
        each = self._world.paused if self._paused else self._world.whole
        return self._world.count(self._host) == dict.fromkeys(ids, each)

    def _ask_the_driver(self, ids: set[str]) -> None:
        with patch.dict(os.environ, self._env):
            driver = provisioners.load(
                self._world.driver, Path(self._host.folder), self._stack.identity().deployment_id
            )
            items = asyncio.run(driver.inventory())
        assert {str(item.workspace_id): item.running for item in items} == dict.fromkeys(ids, not self._paused)
