"""A Prebuilds worker: `python worker.py --role control|claims|provisioner|all [--queue QUEUE ...]`. An installed
Prebuilds has it as `prebuilds worker`. `--role http` is the HTTP server, which takes no tasks from Temporal.

This module wires settings, engine, client, activities and workflows together. SIGTERM, SIGINT and SIGHUP drain the
worker: it takes no new tasks, running ones get ten seconds to end, and another worker takes up the rest.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":  # before the imports, which take a second: the environment holds secrets already
    from prebuilds.telemetry.undumpable import close_to_others

    close_to_others()
    # Collections during the imports would find nothing, and take a seventh of their time. `settle_heap` ends this.
    gc.disable()

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
from itertools import product
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.worker import Worker, WorkerDeploymentConfig

from activities.builds import BuildActivities
from activities.drills import DrillActivities, DrillTrialActivities
from activities.inventory import InventoryActivities, PlaceActivities
from activities.lint import CandidateActivities, LintActivities
from activities.operator import OperatorActivities
from activities.provisioning import ProvisioningActivities
from activities.reconcile import ReconcileActivities
from prebuilds import provisioners
from prebuilds.api import StackUnreachable
from prebuilds.background.deployment import check_deployment, watch_deployment
from prebuilds.background.dispatch import Dispatcher
from prebuilds.background.drilling import Driller
from prebuilds.background.gauges import GaugeKeeper
from prebuilds.background.notifying import Notifier
from prebuilds.background.probing import Prober
from prebuilds.background.relay import Relay
from prebuilds.background.retaining import Retention
from prebuilds.background.sizing import Sizer
from prebuilds.background.watching import Watcher
from prebuilds.background.witness import HostWitness
from prebuilds.embedded import claims_worker_on
from prebuilds.failures import as_typed
from prebuilds.failures.temporal import asking_temporal
from prebuilds.operations.context import Context
from prebuilds.operations.facade import Operations
from prebuilds.payloads import build_validators
from prebuilds.provisioners.host_drivers import HostDrivers
from prebuilds.provisioners.kit.host import host_id
from prebuilds.provisioners.state_folder import enter_state_dir, only_worker
from prebuilds.settings import Settings, database_url, load_settings, temporal_address
from prebuilds.settings.worker_options import HTTP, ROLES, WorkerOptions, options_for
from prebuilds.store.builds import provisioning_queue
from prebuilds.store.claim_secrets import load_request_key
from prebuilds.store.engine import check_reachable, create_engine
from prebuilds.store.identity import read_identity
from prebuilds.store.migrate import check_schema
from prebuilds.store.resealing import reseal_claims
from prebuilds.telemetry.deployment_gauges import DeploymentGauges
from prebuilds.telemetry.drill_gauges import DrillGauges
from prebuilds.telemetry.exporting import exporting, exports_metrics
from prebuilds.telemetry.logs import configure_logging
from prebuilds.telemetry.metrics import METRICS
from prebuilds.telemetry.pool_gauges import PoolGauges
from prebuilds.telemetry.queue_ages import QueueAges
from prebuilds.temporal.connecting import connect
from prebuilds.temporal.workers import read_worker_version, settle_heap, worker_on
from prebuilds.vocabulary import CONTROL_QUEUE, PROVISIONER_QUEUE
from workflows.drill_template import DrillTemplate
from workflows.lint_preset import LintPreset
from workflows.operator_request import OperatorRequest
from workflows.orchestrator import PrebuildsOrchestrator
from workflows.reconcile_inventory import ReconcileInventory
from workflows.reconcile_preset import ReconcilePreset
from workflows.workspace_build import WorkspaceBuild

logger = logging.getLogger("prebuilds.worker")

POOL_BUILD_SLOTS = 20
PEOPLE_BUILD_SLOTS = 20
"""Separate from the pool's slots, so that many pool builds cannot delay the builds of people who wait."""


@dataclass
class Running:
    """The workers and background tasks that `serve` has started; `serve` also ends them."""

    workers: list[Worker] = field(default_factory=list)
    background: list[asyncio.Task[Any]] = field(default_factory=list)


@asynccontextmanager
async def serve(
    options: WorkerOptions, settings: Settings, engine: AsyncEngine, client: Client, db_url: str
) -> AsyncIterator[Running]:
    """Run the workers of *options* until the block ends, then drain them."""
    dispatcher = Dispatcher(engine, client)
    running = Running()
    deployment_id = (await read_identity(engine)).deployment_id
    version = read_worker_version()
    background: list[Callable[[], Coroutine[Any, Any, None]]] = []
    async with AsyncExitStack() as stack:
        if "provisioner" in options.roles:  # before anything is served or touched
            enter_state_dir(settings.state_dir, deployment_id)
            stack.enter_context(only_worker(settings.state_dir))
        stack.push_async_callback(dispatcher.drain)
        if "claims" in options.roles:
            claims = claims_worker_on(client, engine, db_url, dispatcher, settings, version=version)
            running.workers.append(await stack.enter_async_context(claims))
        if "control" in options.roles:
            gauges = PoolGauges(settings.reconcile_interval)
            running.workers.append(_control_worker(client, settings, engine, dispatcher, gauges, version))
            if exports_metrics(settings.metrics_port):
                keeper = GaugeKeeper(engine, gauges, QueueAges(), DeploymentGauges(), DrillGauges(), settings.rules)
                background.append(keeper.run)
        if "provisioner" in options.roles:
            await load_request_key(engine, settings.ring)  # raises, so that no worker starts without the right key
            driver = cache(lambda name: provisioners.load(name, settings.state_dir, deployment_id))
            host = host_id(settings.state_dir)
            witness = HostWitness(engine, settings.state_dir, host)
            await witness.contact()
            host_drivers = HostDrivers.installed(driver)
            await host_drivers.restore()  # after a reboot, nothing else starts the workspaces that ran on this host
            provisioning = ProvisioningActivities(engine, dispatcher, driver, host, witness)
            prober = Prober(engine, dispatcher, driver, options.queues, host, witness)
            inventory = InventoryActivities(engine, dispatcher, driver, host, witness, orphans=settings.orphans)
            lint, trials = LintActivities(engine, driver), DrillTrialActivities(engine, driver)
            activities: list[Callable[..., Any]] = [
                provisioning.run_build,
                inventory.inspect_place,
                lint.plan_claim,
                trials.try_drilled,
            ]
            running.workers += _provisioner_workers(client, activities, options.queues, host)
            background.append(prober.run)
            background.append(Watcher(engine, driver, options.queues, host, witness).run)
            background.append(host_drivers.tend)
        for worker in running.workers:
            await stack.enter_async_context(worker)
        if "claims" in options.roles:
            background.append(partial(_reseal_secrets, engine, settings))
        if "control" in options.roles:
            background += _beside_control(client, settings, engine, dispatcher)
        for run in background:
            task = asyncio.create_task(run())
            stack.push_async_callback(_cancel_and_wait, task)
            running.background.append(task)
        yield running


def _beside_control(
    client: Client, settings: Settings, engine: AsyncEngine, dispatcher: Dispatcher
) -> list[Callable[[], Coroutine[Any, Any, None]]]:
    """Make what runs beside each control worker."""
    url = settings.webhook_url
    return [
        Relay(engine, client, dispatcher, settings).run,
        Sizer(engine, dispatcher).run,
        Driller(engine, client, dispatcher).run,
        Retention(engine, settings).run,
        Notifier(engine, str(url) if url is not None else None, settings.signer).run,
    ]


def _control_worker(
    client: Client,
    settings: Settings,
    engine: AsyncEngine,
    dispatcher: Dispatcher,
    gauges: PoolGauges,
    version: WorkerDeploymentConfig | None,
) -> Worker:
    reconcile = ReconcileActivities(engine, dispatcher, gauges, settings.rules)
    builds = BuildActivities(engine, dispatcher)
    drills = DrillActivities(engine, dispatcher, settings.rules)
    operator = OperatorActivities(Operations(Context(engine, client, dispatcher, settings)))
    return worker_on(
        client,
        CONTROL_QUEUE,
        deployment_config=version,
        workflows=[
            PrebuildsOrchestrator,
            ReconcilePreset,
            WorkspaceBuild,
            OperatorRequest,
            ReconcileInventory,
            LintPreset,
            DrillTemplate,
        ],
        activities=[
            reconcile.find_work,
            reconcile.end_pass,
            reconcile.record_stop,
            reconcile.plan_reconcile,
            reconcile.create_prebuilds,
            reconcile.delete_prebuilds,
            reconcile.cancel_builds,
            reconcile.move_prebuilds,
            builds.locate_build,
            builds.close_build,
            builds.host_is_there,
            operator.operate,
            operator.end_request,
            PlaceActivities(engine).list_places,
            CandidateActivities(engine).find_candidates,
            drills.begin_drill,
            drills.watch_build,
            drills.release_drilled,
            drills.end_drill,
        ],
    )


def _provisioner_workers(
    client: Client, activities: Sequence[Callable[..., Any]], queues: Sequence[str], host: str
) -> list[Worker]:
    """Make four workers for each queue: for pool and people's builds, on any host and on this one.

    They have no version: they run no workflow, and a host's queue must be served by whichever release is there.
    """
    workers = []
    for queue, at, pool in product(queues, (None, host), (True, False)):
        name, slots = provisioning_queue(queue, pool=pool, host=at), POOL_BUILD_SLOTS if pool else PEOPLE_BUILD_SLOTS
        workers.append(worker_on(client, name, activities=activities, max_concurrent_activities=slots))
        METRICS.add_slots(name, slots)
    return workers


async def _reseal_secrets(engine: AsyncEngine, settings: Settings) -> None:
    """Encrypt claims' secrets with the current key if they are in clear text or encrypted with an older key."""
    try:
        done = await reseal_claims(engine, settings.ring)
    except (DBAPIError, OSError):
        logger.warning(
            "Some claims' secrets are not encrypted with the current key yet; the next start continues", exc_info=True
        )
        return
    changed, left = done.changed.total(), done.unreadable.total()
    if changed or left:
        logger.info("Claims' secrets are encrypted anew", extra={"changed": changed, "unreadable": left})


async def _cancel_and_wait(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _until_first(stop: asyncio.Event, watch: Coroutine[Any, Any, None]) -> None:
    """Run *watch* until *stop* is set; raise its error if it fails before that."""
    watching, stopping = asyncio.create_task(watch), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()
    finally:
        await _cancel_and_wait(stopping)
        if not watching.done():
            await _cancel_and_wait(watching)


async def run(options: WorkerOptions, settings: Settings, stop: asyncio.Event) -> None:
    """Connect, check the deployment, and serve until *stop* is set.

    Raises:
        StackUnreachable: The database or Temporal cannot be reached, or the schema has another version.
        WrongDeployment: The database and the namespace do not belong together. This is checked before the worker takes
            or writes anything, and again while it runs.
        OwnedByAnother: The state folder belongs to another deployment.
        StateFolderInUse: Another provisioner worker uses the state folder.
        InvalidInput: The environment names half a version of the worker.
    """
    read_worker_version()  # refuses half a version before anything is connected
    db_url = database_url(settings)
    await check_reachable(db_url)
    async with exporting(settings.metrics_port, settings.metrics_host) as telemetry:  # before any connection is opened
        engine = create_engine(
            db_url, connections=settings.other_connections, statement_timeout=settings.database_statement_timeout
        )
        try:
            await check_schema(engine)
            client = await connect(temporal_address(settings), **telemetry)
            with asking_temporal():
                await check_deployment(engine, client, db_url, settings.deployment)
            build_validators()  # before the heap is settled, since they stay, too
            settle_heap()
            async with serve(options, settings, engine, client, db_url):
                logger.info("Serving %s", ", ".join(options.roles))
                await _until_first(stop, watch_deployment(engine, client, db_url, settings.deployment))
                logger.info("Draining")
        finally:
            await engine.dispose()


def parse_options(argv: Sequence[str] | None = None) -> WorkerOptions:
    """Parse a command line; None takes that of the process. Ends the process with a usage error if it is wrong."""
    parser = argparse.ArgumentParser(prog="worker.py", description="A Prebuilds worker.")
    parser.add_argument("--role", choices=[*ROLES, HTTP, "all"], default="all", help="what to serve (default: all)")
    parser.add_argument("--queue", action="append", metavar="QUEUE", help=f"provisioner queue ({PROVISIONER_QUEUE})")
    given = parser.parse_args(argv)
    try:
        return options_for(given.role, given.queue or ())
    except ValueError as error:
        parser.error(str(error))


async def _main(options: WorkerOptions) -> None:
    stop = asyncio.Event()
    ending = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` has it ignored
        ending.append(signal.SIGHUP)
    for number in ending:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if HTTP in options.roles:
        await _run_http(load_settings(), stop, options.listening)
    else:
        await run(options, load_settings(), stop)


async def _run_http(settings: Settings, stop: asyncio.Event, listening: Callable[[str], None] | None) -> None:
    from prebuilds.http.serving import serve_http  # FastAPI costs the other roles nothing

    def serving(address: str) -> None:
        build_validators()
        settle_heap()
        if listening is not None:
            listening(address)

    async with exporting(settings.metrics_port, settings.metrics_host) as telemetry:
        await serve_http(settings, stop, serving, **telemetry)


def serve_until_signalled(options: WorkerOptions) -> None:
    """Run a worker until SIGTERM, SIGINT or SIGHUP, and drain it; raises as `run` and `serve_http` do."""
    configure_logging()
    if HTTP in options.roles:
        import uvloop  # it answers a third more requests

        uvloop.run(_main(options))
    else:
        asyncio.run(_main(options))


def main() -> None:
    """Run the worker that the command line asks for, and end the process with its exit code."""
    options = parse_options()
    code = 0
    try:
        serve_until_signalled(options)
    except Exception as error:
        typed = as_typed(error)
        if typed is None:
            raise
        print(f"error: {typed.type}: {typed}", file=sys.stderr)
        code = 3 if isinstance(typed, StackUnreachable) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    # The SDK's core may abort during interpreter shutdown (temporalio/sdk-python#300); all work is done here.
    os._exit(code)


if __name__ == "__main__":
    main()
