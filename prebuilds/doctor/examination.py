"""The checks of `prebuilds doctor`, each of which says what it found, or what is wrong and what to type."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from prebuilds.api import InvalidInput
from prebuilds.background.deployment import check_deployment
from prebuilds.doctor import fairness, remedies
from prebuilds.doctor.disks import read_disks
from prebuilds.doctor.fairness import Fairness
from prebuilds.failures.temporal import START_TEMPORAL, unreached
from prebuilds.provisioners.process.isolation import find_isolation
from prebuilds.settings import Settings, database_url, load_settings, temporal_address
from prebuilds.store.builds import provisioning_queue
from prebuilds.store.claim_secrets import check_request_key
from prebuilds.store.control import read_control
from prebuilds.store.doctor import ServerFacts, presets_held_for_good, provisioner_queues_in_use, read_server
from prebuilds.store.engine import check_reachable, create_engine
from prebuilds.store.identity import read_identity
from prebuilds.store.migrate import SERVER_VERSION_MIN, UPGRADE_DATABASE, check_schema, head_revision
from prebuilds.store.notifications import count_failing
from prebuilds.temporal.binding import Fit
from prebuilds.temporal.connecting import connect, described, first_payload
from prebuilds.temporal.payload_key import is_encrypted, payload_codec
from prebuilds.temporal.queues import queues_without_pollers
from prebuilds.temporal.search_attributes import KEYWORDS
from prebuilds.vocabulary import CLAIMS_QUEUE, CONTROL_QUEUE, ORCHESTRATOR_ID, PROVISIONER_QUEUE
from prebuilds.vocabulary.passwords import hide_password

CHECK_TIMEOUT_S = 3.0
CLOCK_GAP_MAX_S = 2.0
"""Pools age by the database's clock, tasks time out by Temporal's, next starts are computed by ours."""
OVERDUE_AFTER_INTERVALS = 3
OVERDUE_SLACK = timedelta(seconds=60)
"""A pass may take half a minute, and one may have failed."""

HELD_NAMED_MAX = 5
MIB = 1024**2


class NotWell(Exception):
    """A check has failed."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy


class Examination:
    """One visit: each check is a method, and keeps here what later ones use."""

    engine: AsyncEngine | None = None
    deployment_id: UUID | None = None
    asked: dict[str, str]
    """Check -> where it asked, for when nobody answers there."""
    _client: Client
    _server: ServerFacts
    _fairness: Fairness | None = None

    def __init__(self, settings: Settings | None) -> None:
        self._given = settings
        self.asked = {}

    async def settings(self) -> str:
        try:
            self._settings = self._given or load_settings()
        except InvalidInput as error:
            raise NotWell(error.message, f"correct or unset {' and '.join(error.details)}") from error
        return f"readable; state in {self._settings.state_dir}"

    async def isolation(self) -> str:
        found = find_isolation(self._settings.state_dir)
        if found.ids is not None:
            ids = f"{found.ids[0]}-{found.ids[-1]}"
            return f"a worker of this user gives each `process` workspace a user id of its own ({ids})"
        if found.required:
            raise NotWell(f"no `process` workspace can start: {found.why_not}", found.remedy or remedies.SEE_ISOLATION)
        return f"`process` workspaces share a user and can read each other's files: {found.why_not}"

    async def disks(self) -> str:
        found = read_disks(self._settings.state_dir)
        if low := [disk for disk in found if disk.is_full or disk.is_low]:
            said = [f"the disk of {disk.serves} is {'full' if disk.is_full else 'nearly full'}" for disk in low]
            left = [f"{disk.free_bytes // MIB} MiB" for disk in low]
            raise NotWell(f"{', '.join(said)}: {', '.join(left)} left", remedies.FREE_SPACE)
        return ", ".join(f"{disk.free_bytes // MIB} MiB left for {disk.serves}" for disk in found)

    async def database(self) -> str:
        url = database_url(self._settings)
        where = self.asked["database"] = hide_password(url)
        await check_reachable(url)
        self.engine = create_engine(url, application="prebuilds-doctor", pool_size=3)
        self._server = await read_server(self.engine)
        found = f"PostgreSQL {self._server.version} at {where}"
        if self._server.version_num < SERVER_VERSION_MIN:
            raise NotWell(f"{found} is too old", UPGRADE_DATABASE)
        return found

    async def schema_version(self) -> str:
        await check_schema(self._engine)
        self.deployment_id = (await read_identity(self._engine)).deployment_id
        return head_revision()

    async def state_key(self) -> str:
        return await check_request_key(self._engine, self._settings.ring)

    async def temporal(self) -> str:
        self._client = await connect(temporal_address(self._settings), lazy=True)
        namespace = self._client.namespace
        where = self.asked["temporal"] = self._client.service_client.config.target_host
        try:
            await self._client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=namespace))
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            raise NotWell(
                f"the server at {where} has no namespace {namespace}",
                f"create it with `temporal operator namespace create -n {namespace}`, or set TEMPORAL_NAMESPACE",
            ) from error
        except RuntimeError as error:  # as a first connection fails
            raise unreached(f"Temporal at {where}", error) from error
        return f"namespace {namespace} at {where}"

    async def deployment(self) -> str:
        url, expected = database_url(self._settings), self._settings.deployment
        database, namespace, fit = await check_deployment(self._engine, self._client, url, expected)
        where = f"{database.deployment_id} at namespace {namespace.name}"
        match fit:
            case Fit.UNKNOWN:
                return f"{where}; not checked whose that is: these credentials may not describe it"
            case Fit.DATABASE_ALONE:
                return f"{where}; recorded in the database alone, so that others are not refused there"
            case _:
                return where

    async def payload_key(self) -> str:
        """Compare with the loop's start, which a worker has encrypted if the deployment does so. It is only opened."""
        if (given := await first_payload(self._client, ORCHESTRATOR_ID)) is None:
            return "nothing to compare with: no loop has been started"
        codec = payload_codec()
        await codec.decode([given])
        if is_encrypted(given):
            return "this environment's opens what the deployment encrypts"
        return "the loop was started without one" + (", this environment has one" if codec.keys else "")

    async def search_attributes(self) -> str:
        answer = await self._client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=self._client.namespace)
        )
        known = answer.custom_attributes
        if missing := [name for name in KEYWORDS if name not in known]:
            raise NotWell(f"not registered: {', '.join(missing)}", remedies.REGISTER_ATTRIBUTES)
        if other := [name for name in KEYWORDS if known[name] != IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD]:
            raise NotWell(f"not of type Keyword: {', '.join(other)}", remedies.REPLACE_ATTRIBUTES)
        return f"{len(KEYWORDS)} registered"

    async def task_queues(self) -> str:
        workflows = {CONTROL_QUEUE: "--role control", CLAIMS_QUEUE: "--role claims"}
        activities = {
            provisioning_queue(queue, pool=pool, host=None): "--role provisioner"
            + ("" if queue == PROVISIONER_QUEUE else f" --queue {queue}")
            for queue in sorted(await provisioner_queues_in_use(self._engine))
            for pool in (True, False)
        }
        unserved = await queues_without_pollers(self._client, workflows, "workflow")
        unserved |= await queues_without_pollers(self._client, activities)
        workers = workflows | activities
        if unserved:
            commands = dict.fromkeys(f"`prebuilds worker {workers[name]}`" for name in workers if name in unserved)
            raise NotWell(f"no worker polls {', '.join(sorted(unserved))}", f"start {' and '.join(commands)}")
        return f"served: {', '.join(workers)}"

    async def clock_skew(self) -> str:
        gaps = {"the database": gap_s(*self._server.clock)}
        if self._fairness is not None:
            gaps["Temporal"] = gap_s(*self._fairness.clock)
        wrong = [
            f"{who} is {abs(gap):.1f} s {'ahead of' if gap > 0 else 'behind'} this machine"
            for who, gap in gaps.items()
            if abs(gap) > CLOCK_GAP_MAX_S
        ]
        if wrong:
            raise NotWell(", ".join(wrong), remedies.CORRECT_CLOCKS)
        return f"this machine agrees with {' and '.join(gaps)}"

    async def loop(self) -> str:
        wanted = await read_control(self._engine)
        if not await self._loop_runs():
            if wanted.loop == "running":
                raise NotWell("the loop is wanted, and does not run", "start it with `prebuilds start`")
            found = f"stopped on purpose: {wanted.stop_cause}" if wanted.loop == "stopped" else "never started"
            return f"{found}; `prebuilds start` starts it"
        interval = wanted.loop_interval or self._settings.reconcile_interval
        if wanted.quiet_for > OVERDUE_AFTER_INTERVALS * interval + OVERDUE_SLACK:
            quiet_s = wanted.quiet_for.total_seconds()
            raise NotWell(f"the loop runs, but no pass has begun for {quiet_s:.0f} s", remedies.SEE_WHY_NO_PASS)
        return "running" + (f"; paused: {wanted.paused_reason}" if wanted.paused else "")

    async def _loop_runs(self) -> bool:
        found = await described(self._client, ORCHESTRATOR_ID)
        return found is not None and found.status is WorkflowExecutionStatus.RUNNING

    async def history(self) -> str:
        lost = (await read_control(self._engine)).restore_found
        if lost is not None:
            raise NotWell(f"the database was restored, and claims and passes stop: {lost}", remedies.SAY_RESTORED)
        return "nothing is known that this database lacks"

    async def presets(self) -> str:
        rules = (await read_control(self._engine)).rules or self._settings.rules
        held = await presets_held_for_good(self._engine, rules)
        if held:
            named = [f"{preset.path} ({preset.reason})" for preset in held[:HELD_NAMED_MAX]]
            more = [f"{len(held) - len(named)} more"] if len(held) > len(named) else []
            raise NotWell(
                f"creations are held until somebody acts: {', '.join(named + more)}",
                remedies.RESUME_PRESET.format(held[0].path)
                if len(held) == 1
                else f"for each P: {remedies.RESUME_PRESET.format('P')}",
            )
        return "none is held until somebody acts"

    async def notifications(self) -> str:
        found = await count_failing(self._engine)
        if found.failing or found.given_up:
            told = f"{found.failing} failed and will be tried again, {found.given_up} were given up within a day"
            raise NotWell(f"{told} ({found.error})", remedies.MEND_WEBHOOK)
        return "none has failed"

    async def fairness(self) -> str:
        self._fairness = await fairness.try_fairness(self._client)
        if not self._fairness.fair:
            raise NotWell("off: builds of a big pool are served before all others'", remedies.TURN_FAIRNESS_ON)
        return "on"

    @property
    def _engine(self) -> AsyncEngine:
        assert self.engine is not None  # noqa: S101 - whoever uses it needs the database's check
        return self.engine


def gap_s(before: datetime, theirs: datetime, after: datetime) -> float:
    """How far their clock is ahead of ours for sure, in seconds; negative when behind, 0 when it may be right.

    Args:
        before: Ours when they were asked.
        after: Ours when their answer was there.
    """
    if theirs > after:
        return (theirs - after).total_seconds()
    return min((theirs - before).total_seconds(), 0.0)


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    check: Callable[[Examination], Coroutine[Any, Any, str]]
    """Returns what it found, or raises."""
    remedy: str
    """When there is no answer, or an error that nobody foresaw."""
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """Wait for these, whether they are ok or not."""
    timeout_s: float = CHECK_TIMEOUT_S


STEPS = (
    Step("settings", Examination.settings, "correct the PREBUILDS_* variables"),
    Step("isolation", Examination.isolation, remedies.SEE_ISOLATION, needs=("settings",)),
    Step("disks", Examination.disks, remedies.FREE_SPACE, needs=("settings",)),
    Step("database", Examination.database, remedies.START_DATABASE, needs=("settings",)),
    Step("schema_version", Examination.schema_version, remedies.MIGRATE, needs=("database",)),
    Step("state_key", Examination.state_key, remedies.SET_STATE_KEY, needs=("schema_version",)),
    Step("temporal", Examination.temporal, START_TEMPORAL, needs=("settings",)),
    Step("deployment", Examination.deployment, START_TEMPORAL, needs=("schema_version", "temporal")),
    Step("payload_key", Examination.payload_key, START_TEMPORAL, needs=("deployment",)),
    Step("search_attributes", Examination.search_attributes, remedies.REGISTER_ATTRIBUTES, needs=("temporal",)),
    Step("task_queues", Examination.task_queues, START_TEMPORAL, needs=("deployment",)),
    Step("clock_skew", Examination.clock_skew, remedies.CORRECT_CLOCKS, needs=("database",), after=("fairness",)),
    Step("loop", Examination.loop, remedies.SEE_WHY_NO_PASS, needs=("deployment",)),
    Step("history", Examination.history, remedies.START_DATABASE, needs=("schema_version",)),
    Step("presets", Examination.presets, remedies.START_DATABASE, needs=("schema_version",)),
    Step("notifications", Examination.notifications, remedies.START_DATABASE, needs=("schema_version",)),
    Step("fairness", Examination.fairness, START_TEMPORAL, needs=("deployment",), timeout_s=fairness.TIMEOUT_S + 1),
)
"""In the report's order."""
