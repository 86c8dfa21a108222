"""`prebuilds workspaces`: list them, show one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import operations
from prebuilds.cli.output import ago, document, table

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
