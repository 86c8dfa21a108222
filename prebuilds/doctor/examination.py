"""The checks of `prebuilds doctor`. Each returns what it found, or raises what is wrong and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
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
from prebuilds.doctor.findings import CheckFailed
from prebuilds.failures.temporal import unreached
from prebuilds.planning.health import clock_gap_s
from prebuilds.provisioners.process.isolation import find_isolation
from prebuilds.settings import Settings, database_url, load_settings, temporal_address
from prebuilds.store.builds import provisioning_queue
from prebuilds.store.claim_secrets import check_request_key
from prebuilds.store.doctor import (
    UNCLAIMED_DAYS,
    ServerFacts,
    presets_held_for_good,
    provisioner_queues_in_use,
    read_server,
    rollouts_without_room,
    unclaimed_presets,
)
from prebuilds.store.drill_list import read_states
from prebuilds.store.engine import check_reachable, create_engine
from prebuilds.store.identity import read_identity
from prebuilds.store.limits import list_limits
from prebuilds.store.loop import read_control
from prebuilds.store.migrate import (
    SERVER_VERSION_MIN,
    UPGRADE_DATABASE,
    check_encoding,
    check_schema,
    current_revision,
    head_revision,
)
from prebuilds.store.near_misses import DAYS, read_near_misses
from prebuilds.store.notifications import count_failing
from prebuilds.store.tokens import count_unconfirmed
from prebuilds.temporal.binding import Fit
from prebuilds.temporal.connecting import connect, described, first_payload
from prebuilds.temporal.payload_key import is_encrypted, payload_codec
from prebuilds.temporal.queues import idle_versions, paused_builds, queues_without_pollers
from prebuilds.temporal.search_attributes import KEYWORDS
from prebuilds.vocabulary import CLAIMS_QUEUE, CONTROL_QUEUE, ORCHESTRATOR_ID, PROVISIONER_QUEUE
from prebuilds.vocabulary.passwords import hide_password
from prebuilds.vocabulary.words import NO_ROOM

CLOCK_GAP_MAX_S = 2.0
"""Tolerated clock difference. Prebuilds age by the database's clock, tasks time out by Temporal's, and next starts are
computed with this machine's."""
OVERDUE_AFTER_INTERVALS = 3
OVERDUE_SLACK = timedelta(seconds=60)
"""Added to the intervals before a pass counts as overdue: a pass may take half a minute, and one may have failed."""

PRESETS_NAMED_MAX = 5
"""Maximum number of presets that a finding names."""
MIB = 1024**2


class Examination:
    """One run of `prebuilds doctor`. Each check is a method; attributes pass connections and facts to later checks.

    A check returns its finding as text and raises `CheckFailed`, or any other error, if something is wrong.
    """

    engine: AsyncEngine | None = None
    """Set by the database check; None while the database does not answer."""
    deployment_id: UUID | None = None
    """Set by the schema check; None while it cannot be read."""
    addresses: dict[str, str]
    """Check -> the address that it connects to, for the finding when nothing answers there."""
    _client: Client
    _server: ServerFacts
    _fairness: Fairness | None = None

    def __init__(self, settings: Settings | None) -> None:
        self._initial_settings = settings
        self.addresses = {}

    async def settings(self) -> str:
        """Check that the environment's settings can be read."""
        try:
            self._settings = self._initial_settings or load_settings()
        except InvalidInput as error:
            raise CheckFailed(error.message, f"correct or unset {' and '.join(error.details)}") from error
        return f"readable; state in {self._settings.state_dir}"

    async def isolation(self) -> str:
        """Check whether `process` workspaces run under user ids of their own."""
        isolation = find_isolation(self._settings.state_dir)
        if isolation.ids is not None:
            ids = f"{isolation.ids[0]}-{isolation.ids[-1]}"
            return f"a worker of this user gives each `process` workspace a user id of its own ({ids})"
        if isolation.required:
            detail = f"no `process` workspace can start: {isolation.why_not}"
            raise CheckFailed(detail, isolation.remedy or remedies.SEE_ISOLATION)
        return f"`process` workspaces share a user and can read each other's files: {isolation.why_not}"

    async def disks(self) -> str:
        """Check the free space of this machine's disks that Prebuilds writes to."""
        disks = read_disks(self._settings.state_dir)
        if low := [disk for disk in disks if disk.is_full or disk.is_low]:
            states = [f"the disk of {disk.serves} is {'full' if disk.is_full else 'nearly full'}" for disk in low]
            free = [f"{disk.free_bytes // MIB} MiB" for disk in low]
            raise CheckFailed(f"{', '.join(states)}: {', '.join(free)} left", remedies.FREE_SPACE)
        return ", ".join(f"{disk.free_bytes // MIB} MiB left for {disk.serves}" for disk in disks)

    async def database(self) -> str:
        """Check that the database answers, its version and its encoding."""
        url = database_url(self._settings)
        address = self.addresses["database"] = hide_password(url)
        await check_reachable(url)
        self.engine = create_engine(url, application="prebuilds-doctor", connections=6)
        self._server = await read_server(self.engine)
        server = f"PostgreSQL {self._server.version} at {address}"
        if self._server.version_num < SERVER_VERSION_MIN:
            raise CheckFailed(f"{server} is too old", UPGRADE_DATABASE)
        check_encoding(self._server.database, self._server.encoding)
        return f"{server}; {self._server.connections} of {self._server.connections_max} connections in use"

    async def schema_version(self) -> str:
        """Check that the database has this release's schema."""
        await check_schema(self._engine)
        self.deployment_id = (await read_identity(self._engine)).deployment_id
        if await current_revision(self._engine) != head_revision():
            return f"{head_revision()}; the release before may go on beside it until `prebuilds migrate --finish`"
        return head_revision()

    async def state_key(self) -> str:
        """Check that the environment's state key opens what the deployment has encrypted."""
        return await check_request_key(self._engine, self._settings.ring)

    async def temporal(self) -> str:
        """Check that Temporal answers and has the namespace."""
        self._client = await connect(temporal_address(self._settings), lazy=True)
        namespace = self._client.namespace
        address = self.addresses["temporal"] = self._client.service_client.config.target_host
        try:
            await self._client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=namespace))
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            raise CheckFailed(
                f"the server at {address} has no namespace {namespace}",
                f"create it with `temporal operator namespace create -n {namespace}`, or set TEMPORAL_NAMESPACE",
            ) from error
        except RuntimeError as error:  # the SDK's error when the first connection fails
            raise unreached(f"Temporal at {address}", error) from error
        return f"namespace {namespace} at {address}"

    async def deployment(self) -> str:
        """Check that the database and the namespace belong to the same deployment."""
        url, expected = database_url(self._settings), self._settings.deployment
        database, namespace, fit = await check_deployment(self._engine, self._client, url, expected)
        where = f"{database.deployment_id} at namespace {namespace.name}"
        match fit:
            case Fit.UNKNOWN:
                return f"{where}; the namespace's owner is not checked: these credentials may not describe it"
            case Fit.DATABASE_ALONE:
                return f"{where}; recorded in the database alone, so other deployments are not refused there"
            case _:
                return where

    async def payload_key(self) -> str:
        """Check that the environment's payload key decrypts the loop's input, which a worker encrypts if the deployment
        encrypts its payloads. The input is not changed."""
        if (payload := await first_payload(self._client, ORCHESTRATOR_ID)) is None:
            return "nothing to compare with: no loop has been started"
        codec = payload_codec()
        await codec.decode([payload])
        if is_encrypted(payload):
            return "this environment's key decrypts what the deployment encrypts"
        return "the loop was started without a key" + (", this environment has one" if codec.keys else "")

    async def search_attributes(self) -> str:
        """Check that Temporal has our search attributes with the right type."""
        answer = await self._client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=self._client.namespace)
        )
        known = answer.custom_attributes
        if missing := [name for name in KEYWORDS if name not in known]:
            raise CheckFailed(f"not registered: {', '.join(missing)}", remedies.REGISTER_ATTRIBUTES)
        if other := [name for name in KEYWORDS if known[name] != IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD]:
            raise CheckFailed(f"not of type Keyword: {', '.join(other)}", remedies.REPLACE_ATTRIBUTES)
        return f"{len(KEYWORDS)} registered"

    async def task_queues(self) -> str:
        """Check that a worker polls every task queue that the deployment uses, and that no build on them is paused."""
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
            raise CheckFailed(f"no worker polls {', '.join(sorted(unserved))}", f"start {' and '.join(commands)}")
        if idle := await idle_versions(self._client, workflows):
            raise CheckFailed(f"no worker of the current version polls {', '.join(idle)}", remedies.make_current(idle))
        if paused := await paused_builds(self._client):
            raise CheckFailed(f"paused by hand in Temporal: {', '.join(paused)}", remedies.UNPAUSE)
        return f"served: {', '.join(workers)}"

    async def clock_skew(self) -> str:
        """Compare this machine's clock with the database's and, if the fairness check could read it, Temporal's."""
        gaps = {"the database": clock_gap_s(*self._server.clock)}
        if self._fairness is not None:
            gaps["Temporal"] = clock_gap_s(*self._fairness.clock)
        wrong = [
            f"{who} is {abs(gap):.1f} s {'ahead of' if gap > 0 else 'behind'} this machine"
            for who, gap in gaps.items()
            if abs(gap) > CLOCK_GAP_MAX_S
        ]
        if wrong:
            raise CheckFailed(", ".join(wrong), remedies.CORRECT_CLOCKS)
        return f"this machine agrees with {' and '.join(gaps)}"

    async def loop(self) -> str:
        """Check that the loop runs unless it was stopped, and that its passes are not overdue."""
        recorded = await read_control(self._engine)
        if not await self._is_loop_running():
            if recorded.loop == "running":
                raise CheckFailed("the loop should be running but is not", "start it with `prebuilds start`")
            state = f"stopped on purpose: {recorded.stop_cause}" if recorded.loop == "stopped" else "never started"
            return f"{state}; `prebuilds start` starts it"
        interval = recorded.loop_interval or self._settings.reconcile_interval
        if recorded.quiet_for > OVERDUE_AFTER_INTERVALS * interval + OVERDUE_SLACK:
            quiet_s = recorded.quiet_for.total_seconds()
            raise CheckFailed(f"the loop runs, but no pass has begun for {quiet_s:.0f} s", remedies.SEE_WHY_NO_PASS)
        return "running" + (f"; paused: {recorded.paused_reason}" if recorded.paused else "")

    async def _is_loop_running(self) -> bool:
        execution = await described(self._client, ORCHESTRATOR_ID)
        return execution is not None and execution.status is WorkflowExecutionStatus.RUNNING

    async def history(self) -> str:
        """Check that the database is not known to be restored from an older state."""
        evidence = (await read_control(self._engine)).restore_found
        if evidence is not None:
            detail = f"the database was restored, and claims and passes stop: {evidence}"
            raise CheckFailed(detail, remedies.CONFIRM_RESTORE)
        return "no sign that the database was restored"

    async def presets(self) -> str:
        """Check that no preset's creations are held until an operator acts; tell which ones nobody claims, and which
        ones claims miss by one parameter."""
        rules = (await read_control(self._engine)).rules or self._settings.rules
        held = await presets_held_for_good(self._engine, rules)
        if held:
            named = _first([f"{preset.path} ({preset.reason})" for preset in held])
            raise CheckFailed(
                f"creations are held until somebody acts: {named}",
                remedies.RESUME_PRESET.format(held[0].path)
                if len(held) == 1
                else f"for each P: {remedies.RESUME_PRESET.format('P')}",
            )
        well = "none is held until somebody acts"
        if unclaimed := await unclaimed_presets(self._engine):
            well += f"; with prebuilds that nobody claimed for {UNCLAIMED_DAYS} days: {_first(unclaimed)}"
        async with self._engine.connect() as connection:
            near = await read_near_misses(connection)
        if near:
            missed = [f"{n.missed} of {n.claims} missed {n.preset} by {n.parameter} alone" for n in near]
            well += f"; claims in {DAYS} days: {_first(missed)}"
        return well

    async def limits(self) -> str:
        """Check that no limit stops a rollout. Tell which organizations have reached one of theirs: that is what limits
        are for, so it fails nothing."""
        rules = (await read_control(self._engine)).rules or self._settings.rules
        if standing := await rollouts_without_room(self._engine, rules):
            raise CheckFailed(f"rollouts stand still, since {NO_ROOM}: {_first(standing)}", remedies.MAKE_ROOM)
        async with self._engine.connect() as connection:
            reached = [row for row in await list_limits(connection) if row.reached]
        named = _first([f"{row.organization} {row.limit} ({row.used} of {row.maximum})" for row in reached])
        return f"reached: {named}" if reached else "none is reached"

    async def drills(self) -> str:
        """Check that the last drill of each template has succeeded, and not too long ago."""
        states = await read_states(self._engine)
        failed = [f"{state.path} (at {state.stage}: {state.reason})" for state in states if state.failed]
        stale = [state.path for state in states if state.stale]
        if failed or stale:
            problems = [f"failed: {_first(failed)}"] if failed else []
            problems += [f"without a success for two of their times: {_first(stale)}"] if stale else []
            raise CheckFailed("; ".join(problems), remedies.SEE_DRILLS)
        return f"of {len(states)} templates with drills none has failed last" if states else "none is scheduled"

    async def tokens(self) -> str:
        """Check that no token waits to be confirmed after a restore."""
        if waiting := await count_unconfirmed(self._engine):
            detail = f"{waiting} are refused until somebody confirms them, since the database was restored"
            raise CheckFailed(detail, remedies.CONFIRM_TOKENS)
        return "none waits to be confirmed"

    async def notifications(self) -> str:
        """Check that no webhook notification fails or was given up within a day."""
        counts = await count_failing(self._engine)
        if counts.failing or counts.given_up:
            detail = f"{counts.failing} failed and will be retried, {counts.given_up} were given up within a day"
            raise CheckFailed(f"{detail} ({counts.error})", remedies.REPAIR_WEBHOOK)
        if self._settings.webhook_url is not None and not self._settings.signer.secrets:
            return "none has failed; the webhook's are not signed, since PREBUILDS_WEBHOOK_SECRET is not set"
        return "none has failed"

    async def fairness(self) -> str:
        """Check that Temporal shares task queues fairly between fairness keys."""
        self._fairness = await fairness.try_fairness(self._client)
        if not self._fairness.fair:
            raise CheckFailed("off: builds of a big pool are served before all others'", remedies.TURN_FAIRNESS_ON)
        return "on"

    @property
    def _engine(self) -> AsyncEngine:
        assert self.engine is not None  # noqa: S101 - only steps that need the database check use it
        return self.engine


def _first(presets: Sequence[str]) -> str:
    """Name the first presets, and say how many more there are."""
    more = len(presets) - PRESETS_NAMED_MAX
    return ", ".join([*presets[:PRESETS_NAMED_MAX], *([f"{more} more"] if more > 0 else [])])
