"""`prebuilds workspaces`: list them, show one, keep one or clear away what failed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import operations
from prebuilds.cli.output import ago, document, table
from prebuilds.cli.system import actor

if TYPE_CHECKING:
    from prebuilds.views import WorkspaceDetails

app = typer.Typer(help="Workspaces, claimed and not.", no_args_is_help=True)


@app.command("list")
def list_(
    owner: Annotated[str | None, typer.Option(help="Only theirs")] = None,
    preset: Annotated[str | None, typer.Option(help="Only of this preset, by path or id")] = None,
    prebuilt: Annotated[bool, typer.Option("--prebuilt", help="Only those that wait in a pool")] = False,
) -> None:
    """Live workspaces."""

    async def go() -> None:
        async with operations() as system:
            rows = await system.list_workspaces(owner=owner, preset=preset, prebuilt=prebuilt)
        document({"workspaces": rows})
        if not output.AS_JSON:
            table(
                ("OWNER/NAME", "PRESET", "STATUS", "READY", "ADDRESS", "CREATED", "CLAIMED", "ID"),
                [
                    (
                        f"{w.owner}/{w.name}",
                        f"{w.organization}/{w.template}/{w.preset}" if w.preset else f"{w.organization}/{w.template}",
                        *(w.status, w.ready, w.address, w.created_at, w.claimed_at, w.id),
                    )
                    for w in rows
                ],
                empty="no workspaces",
            )

    asyncio.run(go())


@app.command()
def show(workspace: Annotated[str, typer.Argument(help="owner/name, or an id")]) -> None:
    """One workspace: its builds, address, resources and events."""

    async def go() -> None:
        async with operations() as system:
            found = await system.show_workspace(workspace)
        document(found)
        if not output.AS_JSON:
            _show(found)

    asyncio.run(go())


@app.command()
def keep(
    workspace: Annotated[str, typer.Argument(help="A prebuild: prebuilds/NAME, or an id")],
    undo: Annotated[bool, typer.Option("--undo", help="Let it go in its time again")] = False,
) -> None:
    """Keep a prebuild that failed or stopped until somebody has looked at it, however long that takes."""

    async def go() -> None:
        async with operations() as system:
            done = await system.keep(workspace, actor(), undo=undo)
        now = "no longer kept" if undo else "kept"
        already = "not kept" if undo else "kept already"
        document(done, human=f"{workspace} is {now if done.changed else already}")

    asyncio.run(go())


@app.command()
def prune(
    failed: Annotated[bool, typer.Option("--failed", help="Prebuilds that failed or were canceled")] = False,
    stopped: Annotated[bool, typer.Option("--stopped", help="Prebuilds that were stopped")] = False,
    preset: Annotated[str | None, typer.Option(help="Only of this preset, by path or id")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many, and delete none")] = False,
) -> None:
    """Delete prebuilds that stay as evidence now, without waiting for their time; while paused, too."""

    async def go() -> None:
        if not (failed or stopped):
            raise typer.BadParameter("give at least one of --failed and --stopped")
        async with operations() as system:
            done = await system.prune(actor(), failed=failed, stopped=stopped, preset=preset, dry_run=dry_run)
        would = "would be deleted" if dry_run else "are being deleted"
        document(done, human=f"{done.pruned} {would}, {done.kept} are kept")

    asyncio.run(go())


def _show(w: WorkspaceDetails) -> None:
    print(f"{w.owner}/{w.name} is {w.status}{', ready' if w.ready else ''}{f' at {w.address}' if w.address else ''}")
    preset = f"/{w.preset}" if w.preset else ""
    print(f"{w.organization}/{w.template}{preset}, version {w.version}, workspace {w.id}")
    print(f"created {ago(w.created_at)}" + (f", claimed {ago(w.claimed_at)}" if w.claimed_at else ""))
    for name, value in sorted(w.resources.items()):
        print(f"  {name}: {value}")
    print()
    table(
        ("BUILD", "TRANSITION", "STAGE", "STATUS", "INITIATOR", "CREATED", "ERROR"),
        [
            (b.build_id, b.transition, b.stage, b.status, b.initiator, b.created_at, (b.error or "").split("\n")[0])
            for b in w.builds
        ],
        empty="no builds",
    )
    print()
    table(("AT", "EVENT", "BY"), [(e.at, e.kind, e.actor) for e in w.events], empty="no events")
