"""Brings a pool to a state through the store's own functions, without a provisioner."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from types import SimpleNamespace
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities.claims import ClaimActivities
from prebuilds.api import PrebuildsError
from prebuilds.background.dispatch import Dispatcher
from prebuilds.operations.claim_requests import UnservedOutcome
from prebuilds.operations.claims import Claims
from prebuilds.payloads import ClaimPlace, ClaimQueued, ClaimRequest, ClaimResult, ClaimRun, ClaimsResult
from prebuilds.planning.plan import prebuild_id
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import PresetSnapshot
from prebuilds.provisioners.base import Provisioned
from prebuilds.store.build_begin import begin_build
from prebuilds.store.build_end import BuildEnd, end_build
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import ClaimOutcome, ClaimStore, hash_request
from prebuilds.store.identity import read_identity
from prebuilds.store.pool import create_prebuilds
from prebuilds.store.snapshots import next_pass_number, snapshot_preset, snapshot_transaction
from prebuilds.vocabulary import BuildStatus, build_id_of
from tests.builders import MadePreset
from tests.rows import do, one

RULES = Rules()
SPREAD_S = 0.03
"""About how long one of two opponents takes, on a machine with nothing else to do."""
T = TypeVar("T")
U = TypeVar("U")

FIRST_RUN = datetime(2026, 3, 2, 9, 14, tzinfo=UTC)

_names = count(1)
_runs = count(1)


async def planned_ids(engine: AsyncEngine, preset_id: UUID, pass_number: int, number: int) -> list[UUID]:
    """Return the ids that a pass plans for *number* creations."""
    epoch = (await read_identity(engine)).epoch
    return [prebuild_id(epoch, preset_id, pass_number, n) for n in range(number)]


async def record_prebuilds(engine: AsyncEngine, preset: MadePreset, number: int) -> list[UUID]:
    """Record *number* creations that have not begun, regardless of the preset's count and holds.

    They share one instant, so that claims and deletions take them in the order of their ids: the one returned here.
    """
    wanted = await one(engine, "SELECT desired_instances, limit_reset_at FROM presets WHERE id = :id", id=preset.id)
    await do(
        engine, "UPDATE presets SET desired_instances = 10000, limit_reset_at = now() WHERE id = :id", id=preset.id
    )
    pass_number = await next_pass_number(engine)
    ids = sorted(await planned_ids(engine, preset.id, pass_number, number))
    assert (await create_prebuilds(engine, preset.id, pass_number, ids, RULES)).workspace_ids == ids
    await do(
        engine,
        "UPDATE presets SET desired_instances = :desired_instances, limit_reset_at = :limit_reset_at WHERE id = :id",
        id=preset.id,
        **wanted._mapping,
    )
    return ids


async def fail(engine: AsyncEngine, preset: MadePreset, number: int, error_type: str = "ProvisionFailed") -> list[UUID]:
    """Record *number* creations and let them fail."""
    ids = await record_prebuilds(engine, preset, number)
    for workspace_id in ids:
        await begin_build(engine, build_id_of(workspace_id, 1))
        await end_build(engine, build_id_of(workspace_id, 1), BuildStatus.FAILED, error="no", error_type=error_type)
    return ids


async def snapshot_of(engine: AsyncEngine, preset: MadePreset, rules: Rules = RULES) -> PresetSnapshot:
    async with snapshot_transaction(engine) as connection:
        return await snapshot_preset(connection, preset.id, rules)


async def make_ready(engine: AsyncEngine, preset: MadePreset, number: int) -> list[UUID]:
    """Create *number* ready prebuilds. Waiting claims get them first."""
    ids = await begin_prebuilds(engine, preset, number)
    for workspace_id in ids:
        await finish(engine, workspace_id)
    return ids


async def begin_prebuilds(engine: AsyncEngine, preset: MadePreset, number: int) -> list[UUID]:
    """Record *number* prebuilds and begin their builds."""
    ids = await record_prebuilds(engine, preset, number)
    for workspace_id in ids:
        await begin_build(engine, build_id_of(workspace_id, 1))
    return ids


async def finish(engine: AsyncEngine, workspace_id: UUID) -> BuildEnd:
    """Let the build of a prebuild succeed, so that it is ready."""
    made = Provisioned(address=f"http://{workspace_id}")
    return await end_build(engine, build_id_of(workspace_id, 1), BuildStatus.SUCCEEDED, provisioned=made)


async def claim(
    store: ClaimStore, target: ClaimTarget | MadePreset, claim_id: str = "", **changes: object
) -> ClaimOutcome:
    """Claim a workspace for alice under a new name."""
    if isinstance(target, MadePreset):
        target = ClaimTarget("acme/python/small", preset_id=target.id)
    fields = {"preset": "acme/python/small", "owner": "alice", "name": f"n{next(_names)}"} | changes
    request = ClaimRequest.model_validate(fields)
    claim_id = claim_id or f"c{next(_names)}"
    return await store.claim(claim_id, request, target, hash_request(request), new_run(), held=False)


def new_run() -> ClaimRun:
    """Make a claim's run that begins now, after all earlier runs."""
    number = next(_runs)
    return ClaimRun(id=f"run-{number}", began_at=FIRST_RUN + timedelta(milliseconds=number))


def workspace_ids(claims: Sequence[ClaimOutcome]) -> list[UUID]:
    return [c.result.workspace_id for c in claims if c.result is not None]


async def against(n: int, rounds: int, first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """The nth round of two opponents. Over the rounds the first one begins later and later: from wholly before the
    second one to wholly after it, with every moment of it in between."""

    async def later() -> T:
        await asyncio.sleep(n * SPREAD_S / rounds)  # not a wait for a state: the test varies the moment
        return await first

    if n == 0:
        begun = await first
        return begun, await second
    if n == rounds - 1:
        ended = await second
        return await first, ended
    begun, ended = await asyncio.gather(later(), second)
    return begun, ended


async def together(works: Iterable[Awaitable[T]]) -> list[T]:
    """Run all *works* concurrently and return their results."""
    return list(await asyncio.gather(*works))


async def outcome(work: Awaitable[T]) -> T | PrebuildsError:
    """Return the result of *work*, or the error with which it is refused."""
    try:
        return await work
    except PrebuildsError as refusal:
        return refusal


class NotedDispatcher(Dispatcher):
    """A dispatcher that starts nothing and records its calls."""

    def __init__(self) -> None:
        self.started: list[UUID] = []
        self.canceled: list[UUID] = []
        self.nudged: list[UUID] = []

    def start_builds(self, build_ids: Iterable[UUID]) -> None:
        self.started += build_ids

    def repeat_starts(self, build_ids: Iterable[UUID]) -> None:
        self.started += build_ids

    def cancel_builds(self, build_ids: Iterable[UUID]) -> None:
        self.canceled += build_ids

    def nudge(self, preset_ids: Iterable[UUID], *, urgent: bool = False) -> None:
        self.nudged += preset_ids


class Desk:
    """Runs the activities of a claim's workflow one by one, as the workflow runs them."""

    def __init__(
        self, engine: AsyncEngine, store: ClaimStore, rules: Rules = RULES, dispatcher: Dispatcher | None = None
    ) -> None:
        self.dispatcher = NotedDispatcher()
        self.runs: dict[str, ClaimRun] = {}
        self._requests: dict[str, dict[str, Any]] = {}
        self.store = store
        self.claims = Claims(engine, store, dispatcher or self.dispatcher, rules)
        self._activities = ClaimActivities(self.claims)

    def run_of(self, claim_id: str) -> ClaimRun:
        """Return the latest run of the claim."""
        return self.runs.setdefault(claim_id, new_run())

    async def ask(self, claim_id: str, *, run: ClaimRun | None = None, **changes: Any) -> ClaimResult | ClaimQueued:
        """A claim by alice of acme/python/small under a name of its own, unless *changes* say otherwise.

        Args:
            run: The run that this is another attempt at; None for a new one.
        """
        request = {"preset": "acme/python/small", "owner": "alice", "name": f"n{next(_names)}"} | changes
        run = self.runs[claim_id] = run or new_run()
        self._requests[claim_id] = request
        return await self._run(claim_id, self._activities.claim, request, claim_id, run)

    async def wait(self, claim_id: str, **changes: Any) -> ClaimQueued:
        """Ask as `ask` does, for a claim that has to wait."""
        waiting = await self.ask(claim_id, on_empty="wait", **changes)
        assert isinstance(waiting, ClaimQueued)
        return waiting

    async def ask_all(
        self, claim_id: str, names: Sequence[str], *, run: ClaimRun | None = None, **changes: Any
    ) -> ClaimsResult:
        request = {"preset": "acme/python/small", "owner": "alice", "names": list(names)} | changes
        run = self.runs[claim_id] = run or new_run()
        return await self._run(claim_id, self._activities.claim_all, request, claim_id, run)

    async def cancel_all(self, claim_id: str, names: Sequence[str], *, run: ClaimRun) -> ClaimsResult | None:
        request = {"preset": "acme/python/small", "owner": "alice", "names": list(names)}
        return await self._run(claim_id, self._activities.cancel_all, request, claim_id, run)

    async def look(self, claim_id: str) -> ClaimPlace:
        return await self._run(claim_id, self._activities.look_in_queue, claim_id, self.run_of(claim_id))

    async def leave(
        self,
        claim_id: str,
        outcome: UnservedOutcome | None = "timed_out",
        *,
        run: ClaimRun | None = None,
        **changes: Any,
    ) -> ClaimPlace:
        """Take a claim out of the queue; *changes* describe the request of a claim that another desk made."""
        request = {"preset": "acme/python/small", "owner": "alice", "name": "dev"} | self._requests.get(claim_id, {})
        run = run or self.run_of(claim_id)
        return await self._run(claim_id, self._activities.leave_queue, request | changes, claim_id, run, outcome)

    async def create_instead(self, claim_id: str, *, run: ClaimRun | None = None, **changes: Any) -> ClaimResult:
        request = {
            "preset": "acme/python/small",
            "owner": "alice",
            "on_empty": "wait",
            "on_timeout": "create",
        } | changes
        run = run or self.run_of(claim_id)
        return await self._run(claim_id, self._activities.create_instead, request, claim_id, run)

    async def _run(self, claim_id: str, step: Callable[..., Awaitable[T]], *args: Any) -> T:
        environment = ActivityEnvironment()
        environment.info = replace(environment.info, workflow_id=f"claim-workspace/{claim_id}")
        return await environment.run(step, *args)


def got(place: ClaimPlace) -> UUID:
    """Return the workspace that a claim got; fails the test if it got none."""
    assert place.result is not None
    return place.result.workspace_id


def position_of(place: ClaimPlace) -> int:
    """Return the position of a waiting claim in its queue; fails the test if it does not wait."""
    assert place.waiting is not None
    return place.waiting.position


async def owner_of(engine: AsyncEngine, workspace_id: UUID) -> UUID:
    row = await one(engine, "SELECT owner_id FROM workspaces WHERE id = :id", id=workspace_id)
    return UUID(str(row.owner_id))


async def until_blocked(connection: Any, number: int = 1) -> None:
    """Wait until *number* other connections wait for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(10):
        while await connection.fetchval(waiting) < number:
            await asyncio.sleep(0.01)
            await connection.execute("SELECT pg_stat_clear_snapshot()")  # otherwise a transaction sees a single reading


class Workflows:
    """A fake Temporal client for dispatcher and relay: holds the workflows' states and records what is sent."""

    def __init__(self) -> None:
        self.status: dict[str, WorkflowExecutionStatus] = {}
        """By workflow id; those that are not in here are unknown."""
        self.signals: list[tuple[str, str]] = []
        self.started: list[str] = []
        self.canceled: list[str] = []
        self.describes = True

    def get_workflow_handle(self, id: str) -> Any:
        async def describe(**_: Any) -> Any:
            if not self.describes:
                raise RPCError("away", RPCStatusCode.UNAVAILABLE, b"")
            if id not in self.status:
                raise RPCError("no such workflow", RPCStatusCode.NOT_FOUND, b"")
            return SimpleNamespace(status=self.status[id])

        async def signal(name: str, *_: Any, **__: Any) -> None:
            self.signals.append((id, name))

        async def cancel(**_: Any) -> None:
            self.canceled.append(id)

        return SimpleNamespace(describe=describe, signal=signal, cancel=cancel)

    async def start_workflow(self, *_: Any, id: str, **__: Any) -> Any:
        self.started.append(id)

    def woken(self) -> list[str]:
        return [id for id, name in self.signals if name == "wake"]
