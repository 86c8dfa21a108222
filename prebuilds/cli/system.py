"""Setting up and steering: init, start, stop, status, pause, resume, reconcile, snapshot."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.api import InvalidInput, StackUnreachable
from prebuilds.cli.connections import database, operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import ago, document, one_line, print_document, progress, say_line, table
from prebuilds.vocabulary.plain_text import escape

if TYPE_CHECKING:
    from datetime import timedelta

    from prebuilds.background.deployment import Bound
    from prebuilds.views import LoopStatus, PresetRow


def duration(text: str, field: str) -> timedelta:
    """A duration of the command line.

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


def actor() -> str:
    """Who is at the keyboard, for the record."""
    try:
        return escape(getpass.getuser())  # what the environment says
    except (KeyError, OSError):
        return "operator"


def clock(moment: datetime, near: datetime | None, zone: tzinfo | None = None) -> str:
    """A time of day as people read it, with the date unless that is *near*'s, and always with its offset from UTC.

    Args:
        zone: None for the terminal's.
    """
    local = moment.astimezone(zone)
    text = local.isoformat(sep=" ", timespec="seconds")
    if near is not None and local.date() == near.astimezone(zone).date():
        return text.partition(" ")[2]
    return text


def init(
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Bind database and namespace also when one belongs to something else")
    ] = False,
    forget_state_key: Annotated[
        bool, typer.Option("--forget-state-key", help="Go on without a state key that is lost, and what it encrypted")
    ] = False,
) -> None:
    """Create or upgrade the schema, register Temporal's search attributes, and bind the database and the Temporal
    namespace to each other. Safe to repeat. The exit code is 3 when Temporal cannot be reached: run it again then."""

    async def go() -> None:
        before, now = await _migrate()
        if forget_state_key:
            from prebuilds.store.claim_secrets import forget_request_key

            async with database() as engine:
                await forget_request_key(engine)
        try:
            attributes, bound = await _bind(adopt)
        except StackUnreachable as error:
            away = f"not done: {error}"
            document(
                {"schema_before": before, "schema": now, "search_attributes": away, "binding": None},
                human=f"{_migrated(before, now)}\nsearch attributes and binding to Temporal: {away}",
            )
            raise typer.Exit(3) from error
        said = {"schema_before": before, "schema": now, "search_attributes": attributes, "binding": bound}
        lines = [_migrated(before, now), f"search attributes: {attributes}", *_bound_in_words(bound)]
        document(said, human="\n".join(lines))

    run_command(go())


async def _bind(adopt: bool) -> tuple[str, Bound]:
    from temporalio.service import RPCError

    from prebuilds.background.deployment import bind_deployment
    from prebuilds.settings import database_url, load_settings, temporal_address
    from prebuilds.temporal.connecting import connect, unanswered
    from prebuilds.temporal.search_attributes import register

    settings = load_settings()
    async with database() as engine:
        client = await connect(temporal_address(settings))
        try:
            bound = await bind_deployment(engine, client, database_url(settings), actor=actor(), adopt=adopt)
        except RPCError as error:
            raise unanswered(error) from error
    return "registered" if await register(client) else "refused by the cluster; all works without them", bound


def _bound_in_words(bound: Bound) -> list[str]:
    from prebuilds.temporal.binding import Fit

    lines = [f"deployment: {bound.deployment_id}"]
    if bound.fit is Fit.UNKNOWN:
        lines.append(
            f"warning: not bound to namespace {bound.namespace}, which these credentials may not describe; "
            "run `prebuilds init` with some that may, so that workers of other deployments are refused there"
        )
        return lines
    lines.append(f"namespace: {bound.namespace}, {'bound now' if bound.changed else 'bound before'}")
    lines += [f"adopted: {before}" for before in bound.replaced]
    if bound.fit is Fit.DATABASE_ALONE:
        lines.append(
            "warning: the namespace cannot be marked with these credentials; this database is refused elsewhere, "
            "but other deployments are not refused in this namespace"
        )
    return lines


def migrate() -> None:
    """Create or upgrade the schema. Safe to repeat, and to run from several places at once."""

    async def go() -> None:
        before, now = await _migrate()
        document({"schema_before": before, "schema": now}, human=_migrated(before, now))

    run_command(go())


async def _migrate() -> tuple[str | None, str]:
    from prebuilds.store.migrate import migrate as run_migrations

    async with database(any_schema=True) as engine:
        return await run_migrations(engine)


def _migrated(before: str | None, now: str) -> str:
    if before == now:
        return f"schema {now}: up to date"
    return f"schema {now}: " + ("created" if before is None else f"upgraded from {before}")


def start(
    interval: Annotated[str | None, typer.Option(help="Between passes, such as 15s; kept for later starts")] = None,
) -> None:
    """Start the reconciliation loop. One that runs goes on, with the interval given."""

    async def go() -> None:
        async with operations() as system:
            with progress("starting the loop"):
                done = await system.start(duration(interval, "interval") if interval is not None else None, actor())
        said = "the loop is started" if done.started else "the loop is running already"
        applied = f"; it runs a pass every {interval}" if done.interval_applied else ""
        document({"started": done.started, "interval_applied": done.interval_applied}, human=said + applied)

    run_command(go())


def stop(
    cause: Annotated[str, typer.Option(help="Why; kept for logs, the result and whoever asks")] = "no cause given",
    wait: Annotated[bool, typer.Option("--wait", help="Return when the loop has ended")] = False,
) -> None:
    """Stop the reconciliation loop gracefully. Workspaces and claims go on; nothing is refilled until `start`."""

    async def go() -> None:
        async with operations() as system:
            with progress("waiting for the loop to end"):
                was_running = await system.stop(cause, by=actor(), wait=wait)
            loop = await system.loop()
        said = "the loop has ended" if wait else "the loop is stopping"
        document(
            {"was_running": was_running, "state": loop.state, "cause": loop.cause},
            human=f"{said}: {cause}" if was_running else f"the loop is not running: {loop.cause or 'never started'}",
        )

    run_command(go())


def status() -> None:
    """The loop, and each preset's pool."""

    async def go() -> None:
        async with operations() as system:
            found = await system.status()
        document(found)
        from prebuilds.cli import output

        if not output.AS_JSON:
            names_alone = output.FORMAT == "name"
            if not names_alone:
                say_line(_loop_line(found.loop))
                say_line(f"deployment: {found.deployment_id}")
            rows = [_status_row(p) for p in found.presets]
            table(_STATUS_COLUMNS, rows, empty="no presets; see `prebuilds apply`", drop=_STATUS_DROP)
            for preset in () if names_alone else found.presets:
                _print_notes(preset)

    run_command(go())


def _print_notes(preset: PresetRow) -> None:
    path = f"{preset.organization}/{preset.template}/{preset.preset}"
    if preset.last_error is not None:
        say_line(f"last error of {path}, {ago(preset.last_error.at)}: {one_line(preset.last_error.message)}")
    for warning in preset.warnings:
        say_line(f"warning for {path}: {warning}")


_STATUS_COLUMNS = (
    *("PRESET", "VERSION", "DESIRED", "READY", "ACTUAL", "STARTING", "STOPPING", "DELETING", "EXPIRED", "FAILED"),
    "HELD",
)


_STATUS_DROP = ("EXPIRED", "VERSION", "DELETING", "STOPPING", "FAILED", "ACTUAL")


def _status_row(p: PresetRow) -> tuple[object, ...]:
    name = f"{p.organization}/{p.template}/{p.preset}" + ("" if p.active else " (inactive)")
    return (
        *(name, p.version, p.desired, p.eligible, p.actual, p.starting, p.stopping, p.deleting, p.expired, p.failed),
        held_in_words(p.held, p.held_until) if p.held is not None else None,
    )


def held_in_words(reason: str, until: datetime | None, near: datetime | None = None, zone: tzinfo | None = None) -> str:
    """`backoff until 14:03:10+01:00`; *near* and *zone* are as for `clock`, *near* being now unless it is given."""
    if until is None:
        return reason
    return f"{reason} until {clock(until, near or datetime.now(UTC), zone)}"


def _loop_line(loop: LoopStatus) -> str:
    facts = [f"loop: {loop.state.replace('_', ' ')}"]
    if loop.cause and loop.state != "running":
        facts.append(f"cause: {loop.cause}")
    if loop.last_pass_at is not None:
        facts.append(f"{loop.passes} passes, the last {ago(loop.last_pass_at)}")
    if loop.paused:
        facts.append(f"paused by {loop.paused_by}: {loop.paused_reason}")
    if loop.note:
        facts.append(loop.note)
    return "; ".join(facts)


def pause(reason: Annotated[str, typer.Option(help="Why, for whoever finds the pools held")]) -> None:
    """Hold every pool as it is: nothing is created or deleted. Claims go on."""

    async def go() -> None:
        async with operations() as system:
            changed = await system.pause(reason, actor())
        document({"paused": True, "changed": changed}, human="paused" if changed else "paused already")

    run_command(go())


def resume() -> None:
    """Let the loop create and delete again."""

    async def go() -> None:
        async with operations() as system:
            changed = await system.resume(actor())
        document({"paused": False, "changed": changed}, human="resumed" if changed else "not paused")

    run_command(go())


def reconcile(
    preset: Annotated[str | None, typer.Option(help="Only this one, by path or id")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the pass has ended")] = False,
) -> None:
    """Ask for a pass now."""

    async def go() -> None:
        async with operations() as system:
            with progress("waiting for the pass to end"):
                await system.reconcile(preset, wait=wait)
        document({"reconciled": wait}, human="the pass has ended" if wait else "asked for a pass")

    run_command(go())


def snapshot() -> None:
    """The state that a pass would decide from, at one instant, as JSON."""

    async def go() -> None:
        async with operations() as system:
            print_document(await system.snapshot())

    run_command(go())
