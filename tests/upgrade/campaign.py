"""An upgrade under claims: the previous release alone, both releases side by side with kills, this release alone.

No loop is stopped and nobody waits: a claim that waits in line and a build that takes its time live through all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from temporalio.client import Client

from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimResult
from prebuilds.store.engine import dsn_of
from prebuilds.temporal.connecting import connect
from prebuilds.vocabulary import OnEmpty
from tests.upgrade.releases import Release, Worker
from tests.upgrade.traffic import Plan, Seen, Traffic, claiming

TEMPLATES = """
organizations:
  - name: upgrade
    members: [alice, bob]
    templates:
      - name: quick
        provisioner: process
        source: {{command: [sleep, infinity], ready: null}}
        presets:
          - {{name: small, instances: {pool}}}
      - name: slow
        provisioner: process
        ready_timeout: 20m
        source:
          command: [sh, -c, "until [ -e {gate} ]; do sleep 0.2; done; touch ready; exec sleep infinity"]
          ready: {{file: ready}}
        presets:
          - {{name: small, instances: 0}}
"""
ROLES = ("control", "claims", "provisioner")
BEFORE_KILL_S = (0.05, 1.0)
END_S = 240.0
UNFINISHED = "SELECT count(*) FROM workspace_builds WHERE status IN ('pending', 'running', 'canceling')"
BOOKS = """
    SELECT c.id, c.workspace_id::text AS workspace_id, u.name AS owner
      FROM claims c JOIN workspaces w ON w.id = c.workspace_id JOIN users u ON u.id = w.owner_id
"""
STUCK = 'TemporalReportedProblems IN ("category=WorkflowTaskFailed") AND ExecutionStatus = "Running"'


def end_workspaces(state_dirs: Iterable[Path]) -> None:
    """Kill the workspaces of hosts whose workers have ended: they outlive their workers."""
    hosts = {path.read_text() for path in (folder / "host-id" for folder in state_dirs) if path.exists()}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("PREBUILDS_HOST_ID", "").rpartition("/")[2] in hosts:
                process.kill()


class Upgrade:
    """One deployment, upgraded from one release to the other."""

    def __init__(
        self, old: Release, new: Release, folder: Path, places: Mapping[str, str], roles: Sequence[str] = ROLES
    ) -> None:
        self.old, self.new, self.roles = old, new, roles
        self.kills: Counter[str] = Counter()
        self._folder = folder
        self._places = {**places, "PREBUILDS_RECONCILE_INTERVAL": "2s"}
        self._gate = folder / "gate"
        self._workers: list[Worker] = []

    async def run(self, plan: Plan, say: Callable[[str], None]) -> Seen:
        """Carry out the whole upgrade while claims are made, and return their answers."""
        await self._set_up(plan.pool)
        client = PrebuildsClient(await connect(self._places["TEMPORAL_ADDRESS"]))
        async with claiming(client, plan) as traffic:
            waiting = asyncio.create_task(traffic.claim("slow", "waiting", OnEmpty.WAIT))
            await self._until(self._long_build_runs, "the long build to run")
            part = plan.claims // 5
            await traffic.answer(part)
            say(f"{traffic.seen.answered} claims answered by the release before")
            await asyncio.gather(traffic.answer(part), self._migrate())
            await self._start_all(self.new, "two")
            say("both releases serve")
            await self._kill_some(plan, plan.claims - 3 * part, traffic)
            say(f"{traffic.seen.answered} claims answered, {self.kills.total()} workers killed")
            await self._replace_the_old_ones()
            await traffic.answer(part)
            say(f"{traffic.seen.answered} claims answered; this release serves alone")
            await self._finish()
            assert not waiting.done(), "the claim has waited through all of it"
            self._gate.touch()
            held = await asyncio.wait_for(waiting, END_S)
            assert held is not None, "the long build's workspace is given to the claim that waited for it"
        await self._check_end(client.temporal, [*traffic.seen.claimed, held])
        return traffic.seen

    def end(self) -> None:
        """Kill the remaining processes."""
        for worker in self._workers:
            worker.end()
        end_workspaces(self._folder / host for host in ("one", "two"))

    async def _set_up(self, pool: int) -> None:
        templates = self._folder / "templates.yaml"
        templates.write_text(TEMPLATES.format(pool=pool, gate=self._gate))
        assert (await self._command(self.old, "init"))[1]["schema"] == "0001"
        assert (await self._command(self.old, "apply", "-f", str(templates)))[0] == 0
        await self._start_all(self.old, "one")

    async def _command(self, release: Release, *words: str) -> tuple[int, Any]:
        env = {**self._places, "PREBUILDS_STATE_DIR": str(self._folder / "commands")}
        return await asyncio.to_thread(release.run, env, *words)

    async def _start_all(self, release: Release, host: str) -> None:
        await asyncio.gather(*(self._start(release, role, host) for role in self.roles))

    async def _start(self, release: Release, role: str, host: str) -> None:
        name = f"{release.name.replace(' ', '-')}-{role}-{host}"
        env = {**self._places, "PREBUILDS_STATE_DIR": str(self._folder / host)}
        worker = Worker(release, role, env, self._folder / f"{name}.log")
        self._workers.append(worker)
        worker.start()
        await self._until(worker.is_serving, f"{name} to serve")

    async def _migrate(self) -> None:
        """Expand the schema under claims: check the plan, run it, and check that it is done."""
        code, plan = await self._command(self.new, "migrate", "--check")
        assert (code, plan["needed"]) == (1, True)
        code, done = await self._command(self.new, "migrate")
        assert (code, done["schema_before"], done["finished"]) == (0, "0001", False)
        code, plan = await self._command(self.new, "migrate", "--check")
        assert (code, plan["needed"]) == (0, False)

    async def _kill_some(self, plan: Plan, claims: int, traffic: Traffic) -> None:
        """Kill workers of both releases, each in turn and in a random order, with claims under way; and start each
        again as the release that it was."""
        rng = random.Random(plan.seed)  # noqa: S311 - a schedule of kills
        turn: list[Worker] = []
        for _ in range(plan.kills):
            answering = asyncio.create_task(traffic.answer(claims // plan.kills, but=plan.parallel))
            await asyncio.sleep(rng.uniform(*BEFORE_KILL_S))
            turn = turn or rng.sample(self._workers, len(self._workers))
            worker = turn.pop()
            worker.kill()
            self.kills[f"{worker.role} of {worker.release.name}"] += 1
            worker.start()
            await answering
        await traffic.answer(claims % plan.kills)
        for worker in self._workers:
            await self._until(worker.is_serving, f"{worker.role} of {worker.release.name} to serve again")

    async def _replace_the_old_ones(self) -> None:
        old = [worker for worker in self._workers if worker.release is self.old]
        for worker in old:
            self._workers.remove(worker)
        await asyncio.gather(*(asyncio.to_thread(worker.drain) for worker in old))
        await self._start(self.new, "provisioner", "one")  # the workspaces on that host need one

    async def _finish(self) -> None:
        """Lock the previous release out."""
        code, done = await self._command(self.new, "migrate", "--finish")
        assert (code, done["finished"]) == (0, True)
        code, answer = await self._command(self.old, "status")
        assert (code, answer["error"]["type"]) == (3, "StackUnreachable")
        assert "schema 0002, which this release does not know" in answer["error"]["message"]

    async def _until(self, is_so: Callable[[], Any], what: str, timeout_s: float = END_S) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    found = is_so()
                    if await found if asyncio.iscoroutine(found) else found:
                        return
                    await asyncio.sleep(0.2)
        except TimeoutError:
            logs = "\n".join(f"{w.role} of {w.release.name}:\n{w.tail()}" for w in self._workers)
            raise AssertionError(f"not in {timeout_s} s: {what}\n{logs}") from None

    async def _fetch(self, query: str) -> list[Any]:
        connection = await asyncpg.connect(dsn_of(self._places["PREBUILDS_DATABASE_URL"]))
        try:
            return list(await connection.fetch(query))
        finally:
            await connection.close()

    async def _long_build_runs(self) -> bool:
        return bool(
            await self._fetch(
                "SELECT FROM workspace_builds b JOIN workspaces w ON w.id = b.workspace_id"
                " JOIN templates t ON t.id = w.template_id WHERE t.name = 'slow' AND b.status = 'running'"
            )
        )

    async def _nothing_is_unfinished(self) -> bool:
        return bool((await self._fetch(UNFINISHED))[0][0] == 0)

    async def _check_end(self, temporal: Client, claimed: Sequence[ClaimResult]) -> None:
        """Compare the answers with the records, and check that nothing is stuck."""
        answered = {(claim.claim_id, str(claim.workspace_id), claim.owner) for claim in claimed}
        assert len({workspace for _, workspace, _ in answered}) == len(claimed), "a workspace was given twice"
        assert {tuple(row) for row in await self._fetch(BOOKS)} == answered, (
            "the recorded workspaces equal the answered ones"
        )
        await self._until(self._nothing_is_unfinished, "every build to end")
        assert (await temporal.count_workflows(STUCK)).count == 0
        builds = [row[0] for row in await self._fetch("SELECT id FROM workspace_builds ORDER BY created_at LIMIT 5")]
        ids = ["prebuilds-orchestrator", "claim-workspace/upgrade-waiting", *(f"workspace-build/{b}" for b in builds)]
        code, report = await self._command(self.new, "replay", *(w for i in ids for w in ("--workflow-id", i)))
        assert code == 0, report
