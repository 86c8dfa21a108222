"""`prebuilds workspaces`: list and show workspaces; start, stop, retry, set, renew and transfer claimed ones; keep or
prune failed and stopped prebuilds."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.api import InvalidInput
from prebuilds.cli import output
from prebuilds.cli.claims import release
from prebuilds.cli.connections import operations, over_http
from prebuilds.cli.ending import run_command
from prebuilds.cli.lists import After, All, Limit, ListTable, run_list
from prebuilds.cli.output import ago, document, progress, say, say_line, table
from prebuilds.cli.system import actor, duration
from prebuilds.vocabulary.actors import Actor
from prebuilds.vocabulary.words import clock, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from prebuilds.cli.connections import AnyOperations
    from prebuilds.cli.lists import ReadPage
    from prebuilds.views import WorkspaceChange, WorkspaceDetails, WorkspaceRow, WorkspaceSettings

app = typer.Typer(help="List and operate workspaces, claimed and unclaimed.", no_args_is_help=True)

Claimed = Annotated[str, typer.Argument(metavar="WORKSPACE", help="A claimed workspace: owner/name, or an id")]
Wait = Annotated[bool, typer.Option("--wait", help="Return when the build has ended")]

ONGOING = {"starting": "running", "stopping": "stopped", "deleting": "deleted"}
"""Status during a build -> status after the build has succeeded."""
WARNINGS = {
    "vanished": "nothing of it runs any more; start it again with `prebuilds workspaces start`",
    "quarantined": "it is not claimed, counted or removed automatically; transfer it to the owner in its mark, or "
    "release it if it has no mark",
}
"""Warning -> what it means and what to do."""


@app.command("list")
def list_(
    owner: Annotated[str | None, typer.Option(help="Only workspaces of this owner")] = None,
    preset: Annotated[str | None, typer.Option(help="Only workspaces of this preset, by path or id")] = None,
    prebuilt: Annotated[bool, typer.Option("--prebuilt", help="Only unclaimed workspaces")] = False,
    limit: Limit = 100,
    after: After = None,
    all_: All = False,
) -> None:
    """List the live workspaces, by preset and age."""

    def reader(system: AnyOperations) -> ReadPage[WorkspaceRow]:
        return partial(system.workspaces.list, owner=owner, preset=preset, prebuilt=prebuilt)

    run_list(WORKSPACES, reader, limit, after, all_)


def _row(w: WorkspaceRow) -> tuple[object, ...]:
    preset = f"{w.organization}/{w.template}/{w.preset}" if w.preset else f"{w.organization}/{w.template}"
    return (f"{w.owner}/{w.name}", preset, w.status, w.ready, w.address, w.created_at, w.claimed_at, w.id)


WORKSPACES = ListTable(
    "workspaces",
    ("OWNER/NAME", "PRESET", "STATUS", "READY", "ADDRESS", "CREATED", "CLAIMED", "ID"),
    _row,
    empty="no workspaces",
    drop=("CLAIMED", "CREATED", "PRESET", "ADDRESS", "READY"),
)


@app.command()
def show(workspace: Annotated[str, typer.Argument(help="owner/name, or an id")]) -> None:
    """Show one workspace: its status, address, resources, builds and events."""

    async def go() -> None:
        async with operations() as system:
            details = await system.workspaces.show(workspace)
        document(details)
        if not output.AS_JSON:
            _print_details(details)

    run_command(go())


app.command("release")(release)


@app.command()
def start(workspace: Claimed, wait: Wait = False) -> None:
    """Start a workspace that is stopped, or that was seen to run no more."""
    run_command(_change(lambda system: system.workspaces.start(actor(), workspace), wait, "{} is {} already"))


@app.command()
def stop(workspace: Claimed, wait: Wait = False) -> None:
    """Stop a workspace and keep its data."""
    run_command(_change(lambda system: system.workspaces.stop(actor(), workspace), wait, "{} is {} already"))


@app.command()
def retry(workspace: Claimed, wait: Wait = False) -> None:
    """Repeat a workspace's failed or canceled build with the same inputs."""
    run_command(
        _change(lambda system: system.workspaces.retry(actor(), workspace), wait, "{} has not failed: it is {}")
    )


@app.command("set")
def set_(
    workspace: Claimed,
    ttl: Annotated[str | None, typer.Option(help="How long a start lasts, such as 8h; 0 for no end")] = None,
    autostart: Annotated[
        str | None, typer.Option(help="Cron, such as 'CRON_TZ=Europe/Berlin 30 9 * * 1-5'; none for no schedule")
    ] = None,
    lease: Annotated[
        str | None, typer.Option(help="Release it this long from now unless it is renewed, such as 10m; 0 for never")
    ] = None,
) -> None:
    """Change when a workspace stops and starts by itself, and how long it is kept, from now on."""

    async def go() -> None:
        if ttl is None and autostart is None and lease is None:
            raise typer.BadParameter("give at least one of --ttl, --autostart and --lease")
        lasts = None if ttl is None else duration(ttl, "ttl")
        kept = None if lease is None else duration(lease, "lease")
        async with operations() as system:
            done = await system.workspaces.set(actor(), workspace, ttl=lasts, autostart=autostart, lease=kept)
        document(
            done, human=f"{done.workspace} {'has now' if done.changed else 'had already'}: {_describe_lifetime(done)}"
        )

    run_command(go())


@app.command()
def renew(
    workspace: Annotated[str, typer.Argument(help="A workspace with a lease: owner/name, or an id")],
    lease: Annotated[
        str | None, typer.Option(help="How long each renewal lasts from now on, such as 10m; by default as before")
    ] = None,
) -> None:
    """Renew a workspace's lease from now, so that it is not released. It never ends earlier than before."""

    async def go() -> None:
        lasts = None if lease is None else duration(lease, "lease")
        async with operations() as system:
            done = await system.workspaces.renew(actor(), workspace, lease=lasts)
        document(done, human=f"{done.workspace} is leased until {clock(done.lease_until, None)}")

    run_command(go())


@app.command()
def transfer(
    workspace: Claimed,
    to: Annotated[str, typer.Option(help="The new owner, a member of the workspace's organization")],
    name: Annotated[str | None, typer.Option(help="The workspace's new name; by default it keeps its name")] = None,
    by: Annotated[str | None, typer.Option(help="Who asks; by default the user who runs this command")] = None,
    wait: Wait = False,
) -> None:
    """Transfer a workspace to another owner, and hand it over as after a claim. A stopped workspace is started."""

    if by is not None and over_http():
        remedy = "leave it out, or use a token of that person"
        raise InvalidInput.field("by", "has no effect over HTTP, where the token says who asks", remedy)

    async def ask(system: AnyOperations) -> WorkspaceChange:
        return await system.workspaces.transfer(Actor(by) if by else actor(), workspace, to, name=name)

    run_command(_change(ask, wait, "{} is theirs already, and {}"))


@app.command()
def keep(
    workspace: Annotated[str, typer.Argument(help="A prebuild: prebuilds/NAME, or an id")],
    undo: Annotated[bool, typer.Option("--undo", help="Let it be deleted in its time again")] = False,
) -> None:
    """Exempt a failed or stopped prebuild from its automatic deletion, so that somebody can examine it."""

    async def go() -> None:
        async with operations() as system:
            done = await system.workspaces.keep(actor(), workspace, undo=undo)
        now = "no longer kept" if undo else "kept"
        already = "not kept" if undo else "kept already"
        document(done, human=f"{workspace} is {now if done.changed else already}")

    run_command(go())


@app.command()
def prune(
    failed: Annotated[bool, typer.Option("--failed", help="Delete prebuilds that failed or were canceled")] = False,
    stopped: Annotated[bool, typer.Option("--stopped", help="Delete prebuilds that were stopped")] = False,
    preset: Annotated[str | None, typer.Option(help="Only prebuilds of this preset, by path or id")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the prebuilds without deleting them")] = False,
) -> None:
    """Delete failed or stopped prebuilds now instead of at their time, also while the loop is paused."""

    async def go() -> None:
        if not (failed or stopped):
            raise typer.BadParameter("give at least one of --failed and --stopped")
        async with operations() as system:
            kinds = {"failed": failed, "stopped": stopped}
            with progress("pruning") as report:
                done = await system.workspaces.prune(
                    actor(), **kinds, preset=preset, dry_run=dry_run, on_progress=lambda n: report(f"pruned {n}")
                )
        would = "would be deleted" if dry_run else "are being deleted"
        document(done, human=f"{done.pruned} {would}, {done.kept} are kept")

    run_command(go())


async def _change(
    ask: Callable[[AnyOperations], Coroutine[Any, Any, WorkspaceChange]], wait: bool, unchanged: str
) -> None:
    """Ask for a build of a workspace, and print the outcome.

    Args:
        ask: Calls the operation.
        wait: Wait until the build has ended, also one that was recorded by an earlier request.
        unchanged: Text to print if nothing changed, with placeholders for the workspace's path and its status.
    """
    async with operations() as system:
        done = await ask(system)
        text = f"{{}} is {{}} (build {done.build_id})" if done.changed else unchanged
        if wait and done.status in ONGOING:
            with progress(f"waiting for build {done.build_id}"):
                await system.workspaces.wait(done.build_id)
            done, text = done.model_copy(update={"status": ONGOING[done.status]}), "{} is {}"
    document(done, human=text.format(done.workspace, done.status))


def _describe_lifetime(w: WorkspaceDetails | WorkspaceSettings) -> str:
    """Describe when a workspace stops and starts by itself, and when it is released."""
    ends = f"ttl {timedelta(seconds=w.ttl_seconds)}" if w.ttl_seconds else "no ttl"
    starts = "no autostart"
    if w.autostart_schedule is not None:
        upcoming = clock(w.next_start_at, None) if w.next_start_at else "never"
        starts = f"autostart {w.autostart_schedule} (next {upcoming})"
    if w.lease_seconds is None:
        return f"{ends}, {starts}"
    until = f"until {clock(w.lease_until, None)}" if w.lease_until else "suspended until it is renewed"
    return f"{ends}, {starts}, lease of {timedelta(seconds=w.lease_seconds)} {until}"


def _print_details(w: WorkspaceDetails) -> None:
    say_line(f"{w.owner}/{w.name} is {w.status}{', ready' if w.ready else ''}{f' at {w.address}' if w.address else ''}")
    preset = f"/{w.preset}" if w.preset else ""
    say_line(f"{w.organization}/{w.template}{preset}, version {w.version}, workspace {w.id}")
    for warning in w.warnings:
        say_line(f"warning: {warning}: {WARNINGS[warning]}")
    if w.quarantine_reason is not None:
        say_line(f"quarantined because: {w.quarantine_reason}")
    say_line(f"created {ago(w.created_at)}" + (f", claimed {ago(w.claimed_at)}" if w.claimed_at else ""))
    if w.claimed_at:
        say_line(_describe_lifetime(w))
    for name, value in sorted(w.resources.items()):
        say_line(f"  {name}: {value}")
    say()
    table(
        ("BUILD", "TRANSITION", "STAGE", "STATUS", "INITIATOR", "CREATED", "ERROR"),
        [
            (b.build_id, b.transition, b.stage, b.status, b.initiator, b.created_at, b.error and one_line(b.error))
            for b in w.builds
        ],
        empty="no builds",
    )
    say()
    table(("AT", "EVENT", "BY"), [(e.at, e.kind, e.actor) for e in w.events], empty="no events")
