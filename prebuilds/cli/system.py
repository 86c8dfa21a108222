"""Setting up and steering: init, start, stop, pause, resume, reconcile, snapshot."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.api import InvalidInput
from prebuilds.cli.connections import operations, require_database
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, print_document, progress
from prebuilds.vocabulary.actors import OPERATOR, Actor
from prebuilds.vocabulary.plain_text import escape

if TYPE_CHECKING:
    from datetime import timedelta

    from prebuilds.views import Binding


def duration(text: str, field: str) -> timedelta:
    """Parse a duration of the command line.

    Raises:
        InvalidInput: Naming *field*.
    """
    from datetime import timedelta

    from prebuilds.vocabulary import parse_duration

    try:
        value = parse_duration(text)
    except ValueError as error:
        raise InvalidInput.field(field, str(error)) from error
    assert isinstance(value, timedelta)  # noqa: S101 - what it makes of text
    return value


def actor() -> Actor:
    """Return the user who runs the command, for the record."""
    try:
        return Actor(escape(getpass.getuser()))  # the name in the environment
    except (KeyError, OSError):
        return OPERATOR


Roles = Annotated[
    str | None,
    typer.Option(
        "--roles",
        metavar="PREFIX",
        help="Grant the database roles PREFIX_worker, PREFIX_server and PREFIX_reader what they need, and no more",
    ),
]


def init(
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Bind database and namespace also when one belongs to something else")
    ] = False,
    forget_state_key: Annotated[
        bool, typer.Option("--forget-state-key", help="Go on without a state key that is lost, and what it encrypted")
    ] = False,
    roles: Roles = None,
) -> None:
    """Create or upgrade the schema, register Temporal's search attributes, and bind the database and the Temporal
    namespace to each other. Safe to repeat. The exit code is 3 when Temporal cannot be reached: run it again then."""

    async def go() -> None:
        require_database()
        from prebuilds.cli.migrating import migrated_in_words, tell_step
        from prebuilds.operations import system

        done = await system.init(actor(), adopt=adopt, forget_state_key=forget_state_key, roles=roles, tell=tell_step)
        if done.binding is None:
            lines = [f"search attributes and binding to Temporal: {done.search_attributes}"]
        else:
            lines = [f"search attributes: {done.search_attributes}", *_bound_in_words(done.binding)]
        document(done, human="\n".join([migrated_in_words(done), *lines]))
        if done.binding is None:
            raise typer.Exit(3)

    run_command(go())


def _bound_in_words(bound: Binding) -> list[str]:
    lines = [f"deployment: {bound.deployment_id}"]
    if bound.fit == "unknown":
        lines.append(
            f"warning: not bound to namespace {bound.namespace}, which these credentials may not describe; "
            "run `prebuilds init` with some that may, so that workers of other deployments are refused there"
        )
        return lines
    lines.append(f"namespace: {bound.namespace}, {'bound now' if bound.changed else 'bound before'}")
    lines += [f"adopted: {before}" for before in bound.replaced]
    if bound.fit == "database_alone":
        lines.append(
            "warning: the namespace cannot be marked with these credentials; this database is refused elsewhere, "
            "but other deployments are not refused in this namespace"
        )
    return lines


def start(
    interval: Annotated[str | None, typer.Option(help="Between passes, such as 15s; kept for later starts")] = None,
) -> None:
    """Start the reconciliation loop. One that runs goes on, with the interval given."""

    async def go() -> None:
        async with operations() as system:
            with progress("starting the loop"):
                done = await system.loop.start(
                    actor(), duration(interval, "interval") if interval is not None else None
                )
        outcome = "the loop is started" if done.changed else "the loop is running already"
        if done.state == "stopped":
            outcome = f"the loop was stopped again meanwhile: {done.cause}"
        applied = f"; it runs a pass every {interval}" if done.interval_applied else ""
        document(done, human=outcome + applied)

    run_command(go())


def stop(
    cause: Annotated[str, typer.Option(help="Why; kept for logs, the result and whoever asks")] = "no cause given",
    wait: Annotated[bool, typer.Option("--wait", help="Return when the loop has ended")] = False,
) -> None:
    """Stop the reconciliation loop gracefully. Workspaces and claims go on; nothing is refilled until `start`."""

    async def go() -> None:
        async with operations() as system:
            with progress("waiting for the loop to end"):
                done = await system.loop.stop(actor(), cause, wait=wait)
        outcome = "the loop has ended" if wait else "the loop is stopping"
        not_running = f"the loop is not running: {done.cause or 'never started'}"
        document(done, human=f"{outcome}: {cause}" if done.changed else not_running)

    run_command(go())


def pause(reason: Annotated[str, typer.Option(help="Why, for whoever finds the pools held")]) -> None:
    """Hold every pool as it is: nothing is created or deleted. Claims go on."""

    async def go() -> None:
        async with operations() as system:
            done = await system.loop.pause(actor(), reason)
        document(done, human="paused" if done.changed else "paused already")

    run_command(go())


def resume() -> None:
    """Let the loop create and delete again."""

    async def go() -> None:
        async with operations() as system:
            done = await system.loop.resume(actor())
        document(done, human="resumed" if done.changed else "not paused")

    run_command(go())


def reconcile(
    preset: Annotated[str | None, typer.Option(help="Only this one, by path or id")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the pass has ended")] = False,
) -> None:
    """Ask for a pass now."""

    async def go() -> None:
        async with operations() as system:
            with progress("waiting for the pass to end"):
                done = await system.loop.reconcile(preset, wait=wait)
        document(done, human="the pass has ended" if wait else "asked for a pass")

    run_command(go())


def snapshot() -> None:
    """The state that a pass would decide from, at one instant, as JSON."""

    async def go() -> None:
        async with operations() as system:
            print_document(await system.status.snapshot())

    run_command(go())
