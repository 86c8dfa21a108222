"""A deployment without workers: a real database, and steps that a workflow, a provisioner or a person would take.

Time passes by making every recorded time older, so that the store and its statements run as they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
from sqlalchemy import DateTime, text

from prebuilds.api import ClaimTimedOut, PrebuildsError, SupersededPass
from prebuilds.payloads import ClaimQueued, ClaimRequest, ClaimResult, ClaimRun
from prebuilds.planning.pass_plan import plan_pass
from prebuilds.planning.plan import ReconcilePlan, plan_preset
from prebuilds.planning.rollout_outcomes import judge_rollouts
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import GlobalSnapshot, PresetSnapshot
from prebuilds.store.actions import take_due_actions
from prebuilds.store.build_begin import BuildWaiting, begin_build
from prebuilds.store.build_end import end_build
from prebuilds.store.canaries import judge_canaries, read_canaries
from prebuilds.store.claim_queue import ClaimQueue
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import ClaimOutcome, ClaimStore, hash_request
from prebuilds.store.engine import create_engine, dsn_of
from prebuilds.store.hand_over import serve_all_waiters
from prebuilds.store.loop import begin_pass, end_pass
from prebuilds.store.pool import Written, cancel_creations, create_prebuilds, delete_prebuilds
from prebuilds.store.rollouts import record_outcomes
from prebuilds.store.snapshots import next_pass_number, snapshot_preset, snapshot_state, snapshot_transaction
from prebuilds.store.standby import move_prebuilds
from prebuilds.store.tables import metadata
from prebuilds.vocabulary import PREBUILDS_USER_ID, BuildStatus, OnEmpty
from tests.builders import apply_file

T = TypeVar("T")

CLAIM_OWNERS = ("alice", "bob")
FORGET = f"""
    TRUNCATE organizations, organization_members, templates, template_versions, presets, preset_parameters,
             preset_schedules, workspaces, workspace_builds, claims, claim_queue, resource_replacements, passes, events
             CASCADE;
    DELETE FROM users WHERE id <> '{PREBUILDS_USER_ID}';
    UPDATE settings SET paused = false, passes = 0, rules = NULL;
"""
TIMES = {
    table.name: [column.name for column in table.columns if isinstance(column.type, DateTime)]
    for table in metadata.sorted_tables
}
BUILDS = text(f"""
    SELECT b.id, b.status, b.transition, b.stage, b.initiator_id = '{PREBUILDS_USER_ID}' AS pool, b.workspace_id,
           b.number, b.preset_id
      FROM workspace_builds b ORDER BY b.created_at, b.id
""")
QUEUE = text("""
    SELECT q.claim_id, q.template_id, q.preset_name, q.position, q.decided_at IS NOT NULL AS decided,
           q.deadline > now() AS live FROM claim_queue q ORDER BY q.position
""")
UNMATCHED = text("""
    SELECT p.name FROM claim_queue q JOIN templates t ON t.id = q.template_id AND t.deleted_at IS NULL
      JOIN presets p ON p.template_version_id = t.active_version_id AND p.name = q.preset_name
      JOIN workspaces w ON w.claimable_preset_id = p.id AND (w.expires_at IS NULL OR w.expires_at >= now())
       AND (p.last_invalidated_at IS NULL OR w.created_at >= p.last_invalidated_at)
     WHERE q.decided_at IS NULL AND q.deadline > now() AND NOT t.deprecated
""")
ACTIVE_PRESETS = text("""
    SELECT p.name, p.id FROM presets p JOIN templates t ON t.active_version_id = p.template_version_id
     WHERE t.deleted_at IS NULL
""")
CONTENTS = text("""
    SELECT p.name, r.value FROM presets p JOIN templates t ON t.active_version_id = p.template_version_id
      JOIN preset_parameters r ON r.preset_id = p.id AND r.name = 'content'
""")
CANARIES = text("""
    SELECT c.claims, c.new_claims, CAST(r.policy #>> '{canary,percent}' AS integer) AS percent
      FROM canary_claims c JOIN rollouts r ON r.id = c.rollout_id
""")
WORKSPACES = text("""
    SELECT w.id, w.owner_id, u.name AS owner, w.preset_id, w.deleted_at, w.latest_build, w.latest_transition,
           w.latest_status, w.claimable_preset_id, w.claimed_at, b.transition, b.status, b.number
      FROM workspaces w JOIN users u ON u.id = w.owner_id
      JOIN workspace_builds b ON b.workspace_id = w.id
       AND b.number = (SELECT max(number) FROM workspace_builds x WHERE x.workspace_id = w.id)
""")


class World:
    def __init__(self, database_url: str, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.engine = create_engine(database_url, application="prebuilds-simulation")
        self._url = database_url
        self._pool: asyncpg.Pool[Any] | None = None
        self.rules = Rules()
        self._claims: ClaimStore | None = None
        self._runs = count(1)
        self._waits: dict[str, tuple[bytes, ClaimRun]] = {}
        """By claim id: what each that waits was asked with, and its run."""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def close(self) -> None:
        async def end() -> None:
            await self.engine.dispose()
            if self._pool is not None:
                await self._pool.close()

        self.run(end())

    def begin(self, rules: Rules) -> None:
        """An empty deployment."""

        async def clear() -> None:
            if self._claims is None:
                self._pool = await asyncpg.create_pool(dsn_of(self._url), min_size=1, max_size=4)
                self._claims = ClaimStore(self._pool, enabled=True)
            async with self.engine.begin() as connection:
                for statement in FORGET.split(";"):
                    if statement.strip():
                        await connection.execute(text(statement))

        self.rules = rules
        self._waits.clear()
        self.run(clear())

    def apply(
        self,
        *presets: dict[str, Any],
        template: str = "python",
        members: tuple[str, ...] = CLAIM_OWNERS,
        limits: dict[str, int] | None = None,
        **entry: Any,
    ) -> None:
        self.run(apply_file(self.engine, *presets, template=template, members=members, limits=limits or {}, **entry))

    # --- Reading ---

    def snapshot(self) -> GlobalSnapshot:
        async def read() -> GlobalSnapshot:
            async with snapshot_transaction(self.engine) as connection:
                return await snapshot_state(connection, self.rules)

        return self.run(read())

    def preset(self, preset_id: UUID) -> PresetSnapshot:
        async def read() -> PresetSnapshot:
            async with snapshot_transaction(self.engine) as connection:
                return await snapshot_preset(connection, preset_id, self.rules)

        return self.run(read())

    def rows(self, statement: Any) -> list[Any]:
        async def read() -> list[Any]:
            async with self.engine.connect() as connection:
                return list(await connection.execute(statement))

        return self.run(read())

    def execute(self, statement: str, **values: Any) -> None:
        async def write() -> None:
            async with self.engine.begin() as connection:
                await connection.execute(text(statement), values)

        self.run(write())

    # --- What workflows and provisioners do ---

    def plan(self, preset_id: UUID, pending_max: int | None = None) -> ReconcilePlan:
        """One child's first activity."""
        number = self.run(next_pass_number(self.engine))
        return plan_preset(self.preset(preset_id), number, pending_max)

    def carry_out(
        self, plan: ReconcilePlan, kind: str, pending_max: int | None = None, times: int = 1
    ) -> list[Written]:
        """Run one of a child's writes *times* concurrently; a superseded one has written nothing."""
        moves = [*plan.resume, *plan.pause]
        ids = {"create": plan.create, "delete": plan.delete, "cancel": plan.cancel, "move": moves}[kind]

        async def once() -> Written:
            arguments = (self.engine, plan.preset_id, plan.pass_number, ids, self.rules)
            try:
                match kind:
                    case "create":
                        return await create_prebuilds(*arguments, pending_max=pending_max, create_for=plan.create_for)
                    case "delete":
                        return await delete_prebuilds(*arguments)
                    case "move":
                        at = (self.engine, plan.preset_id, plan.pass_number, self.rules)
                        return await move_prebuilds(*at, resume=plan.resume, pause=plan.pause)
                    case _:
                        return await cancel_creations(*arguments)
            except SupersededPass:
                return Written([], [], lost=len(ids))

        async def at_once() -> list[Written]:
            return await asyncio.gather(*[once() for _ in range(times)])

        return self.run(at_once()) if ids else []

    def full_pass(self) -> int:
        """One pass over everything, as the loop does it. Returns how many presets had work."""
        plan = plan_pass(self.snapshot())
        self.run(judge_canaries(self.engine, self.run(read_canaries(self.engine, plan)), self.rules))
        self.run(record_outcomes(self.engine, judge_rollouts(plan)))
        working = plan.presets_to_reconcile(500)
        number, _ = self.run(begin_pass(self.engine, self.snapshot(), with_work=len(working)))
        for preset_id in working:
            share = None if plan.shares is None else plan.shares.pending_max(preset_id)
            child = self.plan(preset_id, share)
            for kind in ("move", "delete", "cancel", "create"):
                self.carry_out(child, kind, share)
        self.run(end_pass(self.engine, number))
        return len(working)

    def begin_build(self, build_id: UUID) -> bool:
        async def begin() -> bool:
            try:
                return (await begin_build(self.engine, build_id))[1] is not None
            except BuildWaiting:
                return False

        return self.run(begin())

    def end_build(self, build_id: UUID, status: BuildStatus, error_type: str | None = None) -> None:
        error = None if status is BuildStatus.SUCCEEDED else "simulated"
        self.run(end_build(self.engine, build_id, status, error=error, error_type=error_type))

    def relay(self) -> None:
        self.run(take_due_actions(self.engine))
        self.run(serve_all_waiters(self.engine))

    # --- What people do ---

    def claim(
        self, preset: str, owner: str, name: str, claim_id: str, times: int = 1
    ) -> list[ClaimOutcome | PrebuildsError]:
        """One claim, *times* at once under the same id."""
        path = f"acme/python/{preset}"
        request = ClaimRequest(preset=path, owner=owner, name=name)
        run = self._new_run()

        async def once() -> ClaimOutcome | PrebuildsError:
            assert self._claims is not None
            try:
                target = ClaimTarget(path, path=path.split("/"))
                return await self._claims.claim(claim_id, request, target, hash_request(request), run, held=False)
            except PrebuildsError as refusal:
                return refusal

        async def at_once() -> list[ClaimOutcome | PrebuildsError]:
            return await asyncio.gather(*[once() for _ in range(times)])

        return self.run(at_once())

    def wait(self, preset: str, owner: str, name: str, claim_id: str) -> ClaimResult | None:
        """Claim, and join the queue when nothing is ready; return the workspace that was ready, if any."""
        path = f"acme/python/{preset}"
        request = ClaimRequest(preset=path, owner=owner, name=name, on_empty=OnEmpty.WAIT)
        target, request_hash = ClaimTarget(path, path=path.split("/")), hash_request(request)
        run = self._new_run()
        self._waits[claim_id] = (request_hash, run)

        async def join() -> ClaimResult | None:
            assert self._claims is not None
            try:
                claimed = await self._claims.claim(claim_id, request, target, request_hash, run)
                if claimed.result is None:
                    queue = ClaimQueue(self._claims)
                    waiting = await queue.join(claim_id, claim_id, request, target, claimed, request_hash, run)
                    return None if isinstance(waiting, ClaimQueued) else waiting.result
            except PrebuildsError:
                return None
            return claimed.result

        return self.run(join())

    def leave(self, claim_id: str, *, look: bool) -> ClaimResult | None:
        """Do a waiting claim's step after its wake, deadline or cancellation."""
        if claim_id not in self._waits:
            return None
        request_hash, run = self._waits[claim_id]

        async def go() -> ClaimResult | None:
            assert self._claims is not None
            queue = ClaimQueue(self._claims)
            try:
                if look:
                    return (await queue.take_answer_or_place(claim_id, run)).result
                return (await queue.leave(claim_id, claim_id, request_hash, run, ClaimTimedOut("late"))).result
            except PrebuildsError:
                return None

        return self.run(go())

    def _new_run(self) -> ClaimRun:
        number = next(self._runs)
        return ClaimRun(id=f"run-{number}", began_at=datetime.fromtimestamp(number, UTC))

    def let_pass(self, time: timedelta) -> None:
        """Make everything recorded older, in one transaction."""

        async def age() -> None:
            async with self.engine.begin() as connection:
                for table, columns in TIMES.items():
                    if columns:
                        shifted = ", ".join(f"{c} = {c} - CAST(:time AS interval)" for c in columns)
                        await connection.execute(text(f"UPDATE {table} SET {shifted}"), {"time": time})

        self.run(age())
