"""A Prebuilds worker: `python worker.py --role control|claims|provisioner|all [--queue QUEUE ...]`, and the same where
Prebuilds is installed: `prebuilds worker`.

The one place of wiring: settings, engine, client, activities, workflows. SIGTERM, SIGINT and SIGHUP drain: nothing new
is taken, what runs gets ten seconds to end, and what does not is taken up by another worker.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":  # before the imports, which take a second: the environment holds secrets already
    from prebuilds.telemetry.undumpable import close_to_others

    close_to_others()
    gc.disable()  # collections during the imports would find nothing, and take a seventh of their time

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal, cast

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.worker import Worker

from activities.builds import BuildActivities
from activities.inventory import InventoryActivities, PlaceActivities
from activities.lint import CandidateActivities, LintActivities
from activities.operator import OperatorActivities
from activities.provisioning import ProvisioningActivities
from activities.reconcile import ReconcileActivities
from prebuilds import provisioners
from prebuilds.api import StackUnreachable
from prebuilds.background.deployment import check_deployment, watch_deployment
from prebuilds.background.dispatch import Dispatcher
from prebuilds.background.gauges import GaugeKeeper
from prebuilds.background.notifying import Notifier
from prebuilds.background.probing import Prober
from prebuilds.background.relay import Relay
from prebuilds.background.witness import HostWitness
from prebuilds.embedded import claims_worker_on
from prebuilds.failures import as_typed
from prebuilds.failures.temporal import asking_temporal
from prebuilds.operations.context import Context
from prebuilds.operations.facade import Operations
from prebuilds.provisioners.host_drivers import HostDrivers
from prebuilds.provisioners.kit.host import host_id
from prebuilds.provisioners.state_folder import enter_state_dir, only_worker
from prebuilds.settings import Settings, database_url, load_settings, temporal_address
from prebuilds.store.builds import provisioning_queue
from prebuilds.store.claim_secrets import load_request_key, reseal_all
from prebuilds.store.engine import check_reachable, create_engine
from prebuilds.store.identity import read_identity
from prebuilds.store.migrate import check_schema
from prebuilds.telemetry.exporting import exporting, otlp_configured
from prebuilds.telemetry.logs import configure_logging
from prebuilds.telemetry.metrics import PoolGauges
from prebuilds.temporal.connecting import connect
from prebuilds.temporal.workers import settle_heap, worker_on
from prebuilds.vocabulary import CONTROL_QUEUE, PROVISIONER_QUEUE, check_provisioner_queue
from prebuilds.vocabulary.plain_text import escape
from workflows.lint_preset import LintPreset
from workflows.operator_request import OperatorRequest
from workflows.orchestrator import PrebuildsOrchestrator
from workflows.reconcile_inventory import ReconcileInventory
from workflows.reconcile_preset import ReconcilePreset
from workflows.workspace_build import WorkspaceBuild

logger = logging.getLogger("prebuilds.worker")

Role = Literal["control", "claims", "provisioner"]
ROLES: tuple[Role, ...] = ("control", "claims", "provisioner")

POOL_BUILD_SLOTS = 20
PEOPLE_BUILD_SLOTS = 20
"""Beside the pool's: a herd of pool builds cannot take the slots of people who wait."""


@dataclass(frozen=True)
class WorkerOptions:
    """What this process serves."""

    roles: tuple[Role, ...] = ROLES
    queues: tuple[str, ...] = (PROVISIONER_QUEUE,)
    """Provisioner queues; each also under the host's own name, and beside it the one for people's builds."""


@dataclass
class Running:
    """A worker that has started, to be awaited and ended by its owner."""

    workers: list[Worker] = field(default_factory=list)
    background: list[asyncio.Task[Any]] = field(default_factory=list)


@asynccontextmanager
async def serve(
    options: WorkerOptions, settings: Settings, engine: AsyncEngine, client: Client, db_url: str
) -> AsyncIterator[Running]:
    """Run the workers of *options* until the block ends; then drain them."""
    dispatcher = Dispatcher(engine, client)
    running = Running()
    deployment_id = (await read_identity(engine)).deployment_id
    background: list[Callable[[], Coroutine[Any, Any, None]]] = []
    async with AsyncExitStack() as stack:
        if "provisioner" in options.roles:  # before anything is served or touched
            enter_state_dir(settings.state_dir, deployment_id)
            stack.enter_context(only_worker(settings.state_dir))
        stack.push_async_callback(dispatcher.drain)
        if "claims" in options.roles:
            claims = claims_worker_on(client, engine, db_url, dispatcher, settings)
            running.workers.append(await stack.enter_async_context(claims))
        if "control" in options.roles:
            gauges = PoolGauges(settings.reconcile_interval)
            running.workers.append(_control_worker(client, settings, engine, dispatcher, gauges))
            if settings.metrics_port is not None or otlp_configured():
                background.append(GaugeKeeper(engine, gauges, settings.rules).run)
        if "provisioner" in options.roles:
            await load_request_key(engine, settings.ring)  # a worker without the deployment's key does not start
            driver = cache(lambda name: provisioners.load(name, settings.state_dir, deployment_id))
            host = host_id(settings.state_dir)
            witness = HostWitness(engine, settings.state_dir, host)
            await witness.contact()
            host_drivers = HostDrivers.installed(driver)
            await host_drivers.restore()  # after a reboot nothing else starts what ran on this host before
            provisioning = ProvisioningActivities(engine, dispatcher, driver, host, witness)
            prober = Prober(engine, dispatcher, driver, options.queues, host, witness)
            inventory = InventoryActivities(engine, dispatcher, driver, host, witness, orphans=settings.orphans)
            lint = LintActivities(engine, driver)
            running.workers += _provisioner_workers(client, provisioning, inventory, lint, options.queues, host)
            background.append(prober.run)
            background.append(host_drivers.tend)
        for worker in running.workers:
            await stack.enter_async_context(worker)
        if "claims" in options.roles:
            background.append(partial(_reseal, engine, settings))
        if "control" in options.roles:
            background.append(Relay(engine, client, dispatcher, settings).run)
            url = settings.webhook_url
            background.append(Notifier(engine, str(url) if url is not None else None).run)
        for run in background:
            task = asyncio.create_task(run())
            stack.push_async_callback(_end, task)
            running.background.append(task)
        yield running


def _control_worker(
    client: Client, settings: Settings, engine: AsyncEngine, dispatcher: Dispatcher, gauges: PoolGauges
) -> Worker:
    reconcile = ReconcileActivities(engine, dispatcher, gauges, settings.rules)
    builds = BuildActivities(engine, dispatcher)
    operator = OperatorActivities(Operations(Context(engine, client, dispatcher, settings)))
    return worker_on(
        client,
        CONTROL_QUEUE,
        workflows=[
            PrebuildsOrchestrator,
            ReconcilePreset,
            WorkspaceBuild,
            OperatorRequest,
            ReconcileInventory,
            LintPreset,
        ],
        activities=[
            reconcile.find_work,
            reconcile.end_pass,
            reconcile.record_stop,
            reconcile.plan_reconcile,
            reconcile.create_prebuilds,
            reconcile.delete_prebuilds,
            reconcile.cancel_builds,
            builds.locate_build,
            builds.close_build,
            builds.host_is_there,
            operator.operate,
            operator.end_request,
            PlaceActivities(engine).list_places,
            CandidateActivities(engine).find_candidates,
        ],
    )


def _provisioner_workers(
    client: Client,
    provisioning: ProvisioningActivities,
    inventory: InventoryActivities,
    lint: LintActivities,
    queues: Sequence[str],
    host: str,
) -> list[Worker]:
    """For each queue four: the pool's and people's, for any host and for this one."""
    return [
        worker_on(
            client,
            provisioning_queue(queue, pool=pool, host=at),
            activities=[provisioning.run_build, inventory.inspect_place, lint.plan_claim],
            max_concurrent_activities=POOL_BUILD_SLOTS if pool else PEOPLE_BUILD_SLOTS,
        )
        for queue in queues
        for at in (None, host)
        for pool in (True, False)
    ]


async def _reseal(engine: AsyncEngine, settings: Settings) -> None:
    """Encrypt anew, once, what is clear or encrypted by an older key; the next start does what is left."""
    try:
        await reseal_all(engine, settings.ring)
    except (DBAPIError, OSError):
        logger.warning("Claims' secrets are not all encrypted anew; the next start goes on", exc_info=True)


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _until_first(stop: asyncio.Event, watch: Coroutine[Any, Any, None]) -> None:
    """Return at *stop*; raise what *watch* raises before that."""
    watching, stopping = asyncio.create_task(watch), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()
    finally:
        await _end(stopping)
        if not watching.done():
            await _end(watching)


async def run(options: WorkerOptions, settings: Settings, stop: asyncio.Event) -> None:
    """Connect, check, serve until *stop*.

    Raises:
        StackUnreachable: The database or Temporal cannot be reached, or the schema is of another version.
        WrongDeployment: They do not belong together, which is found before anything is taken or written; or no longer.
        OwnedByAnother: The state folder is another deployment's.
        StateFolderInUse: Another provisioner worker serves it.
    """
    db_url = database_url(settings)
    await check_reachable(db_url)
    engine = create_engine(db_url)
    try:
        await check_schema(engine)
        async with exporting(settings.metrics_port) as telemetry:
            client = await connect(temporal_address(settings), **telemetry)
            with asking_temporal():
                await check_deployment(engine, client, db_url, settings.deployment)
            settle_heap()
            async with serve(options, settings, engine, client, db_url):
                logger.info("Serving %s", ", ".join(options.roles))
                await _until_first(stop, watch_deployment(engine, client, db_url, settings.deployment))
                logger.info("Draining")
    finally:
        await engine.dispose()


def options_for(role: str, queues: Sequence[str]) -> WorkerOptions:
    """What a worker of *role*, or of `all` roles, serves; no *queues* means the default provisioner queue.

    Raises:
        ValueError: The role serves no provisioner queue, or a queue's name cannot be one.
    """
    if queues and role not in ("provisioner", "all"):
        raise ValueError("--queue is for --role provisioner or all")
    for queue in queues:
        try:
            check_provisioner_queue(queue)
        except ValueError as error:
            raise ValueError(f"--queue {escape(queue)}: {error}") from error
    roles = ROLES if role == "all" else (cast("Role", role),)
    return WorkerOptions(roles, tuple(queues or (PROVISIONER_QUEUE,)))


def parse_options(argv: Sequence[str] | None = None) -> WorkerOptions:
    parser = argparse.ArgumentParser(prog="worker.py", description="A Prebuilds worker.")
    parser.add_argument("--role", choices=[*ROLES, "all"], default="all", help="what to serve (default: all)")
    parser.add_argument("--queue", action="append", metavar="QUEUE", help=f"provisioner queue ({PROVISIONER_QUEUE})")
    given = parser.parse_args(argv)
    try:
        return options_for(given.role, given.queue or ())
    except ValueError as error:
        parser.error(str(error))


async def _main(options: WorkerOptions) -> None:
    stop = asyncio.Event()
    ending = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under `nohup`
        ending.append(signal.SIGHUP)
    for number in ending:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(options, load_settings(), stop)


def serve_until_signalled(options: WorkerOptions) -> None:
    """Be a worker until SIGTERM, SIGINT or SIGHUP has drained it; raises as `run` does."""
    gc.enable()  # off since the start of the process, for the imports
    configure_logging()
    asyncio.run(_main(options))


def main() -> None:
    options = parse_options()
    code = 0
    try:
        serve_until_signalled(options)
    except Exception as error:
        found = as_typed(error)
        if found is None:
            raise
        print(f"error: {found.type}: {found}", file=sys.stderr)
        code = 3 if isinstance(found, StackUnreachable) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    # The SDK's core may abort while the interpreter winds down (temporalio/sdk-python#300); all work is done here.
    os._exit(code)


if __name__ == "__main__":
    main()
