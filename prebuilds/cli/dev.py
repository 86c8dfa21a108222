"""`prebuilds dev`: runs the whole system in the foreground, with real servers, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from typing import TYPE_CHECKING

from prebuilds.api import PrebuildsError
from prebuilds.cli import output
from prebuilds.cli.ending import ending_signals, leave_quiet, run_command

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from uuid import UUID

    from prebuilds.provisioners.host_drivers import HostDrivers
    from prebuilds.stack import Stack, WorkerProcess

READY_TIMEOUT_S = 60.0
BACK_TIMEOUT_S = 30.0
"""How long `dev` waits for unclaimed workspaces after a restart. The probes find one that is still down afterwards."""
NOT_READY = f"not ready within {READY_TIMEOUT_S:g} s; see the workers' logs in the state folder, and `prebuilds status`"
ROLES = ("claims", "control", "provisioner", "http")
"""Roles with a worker process each: planning must not occupy the interpreter that serves claims."""


def dev() -> None:
    """Run everything on this machine: PostgreSQL, Temporal with its UI, the workers and the loop, until Ctrl-C (exit
    code 0).

    SIGTERM ends it in the same way, and so does closing the terminal unless `nohup` is used.

    The workspaces' processes end with it and are started again at the next start, with the same ids and folders;
    unclaimed ones have half a minute to answer before anybody can claim one. With --json it prints one line once
    everything is up: all addresses, as in stack.json.
    """
    run_command(_dev())


async def _dev() -> None:
    from prebuilds import provisioners
    from prebuilds.provisioners.host_drivers import HostDrivers
    from prebuilds.provisioners.kit.processes import reap
    from prebuilds.provisioners.state_folder import enter_state_dir, only_worker
    from prebuilds.settings import load_settings
    from prebuilds.stack import Stack
    from prebuilds.stack.preparing import set_up
    from prebuilds.stack.temporal_server import free_port
    from prebuilds.telemetry.logs import configure_logging

    configure_logging()
    settings = load_settings()
    stop = asyncio.Event()
    for number in (signal.SIGINT, *ending_signals()):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # Restored workspaces are children of this process and must be reaped when they end.
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, reap)
    state_dir = settings.state_dir.absolute()
    host_drivers = HostDrivers({})  # loaded once the deployment is known

    async def prepare(database_url: str, temporal_address: str) -> UUID:
        nonlocal host_drivers
        bound = await set_up(database_url, temporal_address)
        for before in bound.replaced:
            _say(f"adopted    database and Temporal are bound to each other now; {before}")
        enter_state_dir(state_dir, bound.deployment_id)
        host_drivers = HostDrivers.installed(lambda name: provisioners.load(name, state_dir, bound.deployment_id))
        with only_worker(state_dir):
            # No worker runs yet, so no claim can get a workspace that does not answer.
            await _until_first(_restore(host_drivers), stop)
        return bound.deployment_id

    _say(f"starting in {state_dir}")
    http = f"http://127.0.0.1:{free_port(settings.http_port)}"
    workers, metrics = _workers(settings.metrics_port, http)
    async with Stack(state_dir, workers, prepare=prepare, metrics=metrics, http=http) as stack:
        _say(f"database   {stack.database_url}")
        _say(f"temporal   {stack.temporal_address}   (export TEMPORAL_ADDRESS={stack.temporal_address})")
        _say(f"ui         {stack.temporal_ui}")
        _say(f"http       {http}   (documentation: {http}/docs)")
        _say(f"token      {stack.token_file}   (of every right; its owner alone can read it)")
        for role, url in (metrics or {}).items():
            _say(f"metrics    {url}   ({role})")
        broken = asyncio.ensure_future(stack.until_broken())
        broken.add_done_callback(lambda _: stop.set())
        if await _until_first(_everything_answers(stack), stop):
            await _say_page(stack)
            _say_ready(stack)
        await stop.wait()
        failure = broken.exception() if broken.done() else None
        _say("stopping")
        await stack.stop_workers()
        with contextlib.suppress(OSError):
            suspended = await host_drivers.suspend()
            _say(f"suspended {suspended} workspaces; the next start brings them back")
        if failure is not None:
            raise failure


def _workers(metrics_port: int | None, http: str) -> tuple[list[WorkerProcess], dict[str, str] | None]:
    from prebuilds.stack import role_worker
    from prebuilds.stack.temporal_server import free_port

    workers, metrics = [], {}
    for n, role in enumerate(ROLES):
        env = {"PREBUILDS_HTTP_HOST": "127.0.0.1", "PREBUILDS_HTTP_PORT": http.rpartition(":")[2]}
        if metrics_port is not None:  # one port per worker; the first worker gets the configured one
            port = free_port(metrics_port if n == 0 else 0)
            env["PREBUILDS_METRICS_PORT"] = str(port)
            metrics[role] = f"http://127.0.0.1:{port}/metrics"
        workers.append(role_worker(role, **env))
    return workers, metrics or None


async def _restore(host_drivers: HostDrivers) -> None:
    """Start the workspaces that ended with the last stack, and wait until the unclaimed ones answer."""
    restored = await host_drivers.restore()
    if not restored:
        return
    count = sum(map(len, restored.values()))
    _say(f"restored {count} workspaces; waiting up to {BACK_TIMEOUT_S:g} s until the unclaimed ones answer")
    try:
        async with asyncio.timeout(BACK_TIMEOUT_S):
            await host_drivers.wait_restored(restored)
    except TimeoutError:
        _say("some workspaces do not answer yet; starting without them")


async def _everything_answers(stack: Stack) -> None:
    """Return once the whole stack answers; print a hint if that takes long."""
    from prebuilds.stack.answering import until_everything_answers

    late = asyncio.get_running_loop().call_later(READY_TIMEOUT_S, _say, NOT_READY)
    try:
        await until_everything_answers(stack.temporal_address, stack.database_url, stack.http)
    finally:
        late.cancel()


async def _until_first(work: Coroutine[object, object, None], stop: asyncio.Event) -> bool:
    """Run *work* until it is done or *stop* is set. Returns True if it was done first."""
    task, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        task.result()
        return True
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task
    return False


async def _say_page(stack: Stack) -> None:
    """Print an address that shows the page without a token being typed; without one if the server does not make it."""
    from prebuilds.remote.page import sign_in_link
    from prebuilds.settings import server_token

    assert stack.http is not None  # noqa: S101 - this stack has the server
    try:
        link = await sign_in_link(stack.http, server_token(stack.http))
        _say(f"page       {link}   (signs in once, within ten minutes)")
    except PrebuildsError as error:
        _say(f"page       {stack.http}   ({error.message})")


def _say_ready(stack: Stack) -> None:
    if output.AS_JSON:
        output.print_document(stack.facts(), indent=None)
    else:
        _say("ready")


def _say(text: str) -> None:
    """Print *text* for a person; with --json on stderr. A closed terminal is ignored."""
    try:
        output.say(text, err=output.AS_JSON)
    except (OSError, output.OutputFailed):
        leave_quiet(sys.stderr if output.AS_JSON else sys.stdout)
