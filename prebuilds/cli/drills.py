"""`prebuilds drills`: claims that try a template out for nobody."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.lists import After, All, Limit, ListTable, run_list
from prebuilds.cli.output import document, progress, say_line
from prebuilds.cli.system import actor
from prebuilds.vocabulary.words import clock

if TYPE_CHECKING:
    from prebuilds.views import DrillRow

app = typer.Typer(
    help="Try templates out: a prebuild is claimed for nobody, checked and released.", no_args_is_help=True
)

Target = Annotated[str, typer.Argument(metavar="TARGET", help="organization/template, or organization/template/preset")]
POLL_S = 0.5


@app.command()
def run(
    target: Target,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it has ended; exit 1 unless it has succeeded")
    ] = False,
) -> None:
    """Begin a drill now. It takes no template's last ready prebuild, and is no demand."""

    async def go() -> None:
        async with operations() as system:
            row = await system.drills.run(actor(), target)
            if wait:
                with progress("waiting for the drill"):
                    while row.status == "running":
                        await asyncio.sleep(POLL_S)
                        row = await system.drills.show(row.id)
        _print(row)
        if wait and row.status != "succeeded":
            raise typer.Exit(1)

    run_command(go())


@app.command("list")
def list_(
    template: Annotated[str | None, typer.Argument(help="organization/template, or an id")] = None,
    limit: Limit = 100,
    after: After = None,
    all_: All = False,
) -> None:
    """List drills, newest first."""
    run_list(DRILLS, lambda system: partial(system.drills.list, template), limit, after, all_)


@app.command()
def show(drill: Annotated[str, typer.Argument(help="The drill's id")]) -> None:
    """Show one drill, with the last lines of what has failed."""

    async def go() -> None:
        from uuid import UUID

        from prebuilds.api import InvalidInput

        try:
            drill_id = UUID(drill)
        except ValueError:
            raise InvalidInput.field("drill", f"{drill} is no id", "see `prebuilds drills list`") from None
        async with operations() as system:
            _print(await system.drills.show(drill_id))

    run_command(go())


def _print(row: DrillRow) -> None:
    where = row.template if row.preset is None else f"{row.template}/{row.preset}"
    usable = "" if row.usable_seconds is None else f", usable {row.usable_seconds:.1f} s after the claim"
    at = "" if row.stage is None else f" at {row.stage}"
    why = "" if row.reason is None else f": {row.reason}"
    document(row, human=f"drill {row.id} of {where}: {row.status}{at}{why}{usable}")
    if not output.AS_JSON:
        for line in row.evidence:
            say_line(f"  {line}")


def _row(row: DrillRow) -> tuple[object, ...]:
    usable = None if row.usable_seconds is None else f"{row.usable_seconds:.1f}s"
    return (
        *(row.id, row.template, row.preset, row.version, row.status, row.stage, usable),
        *(clock(row.created_at, None), row.requested_by or "schedule", row.reason),
    )


DRILLS = ListTable(
    "drills",
    ("DRILL", "TEMPLATE", "PRESET", "VERSION", "STATUS", "STAGE", "USABLE", "BEGUN", "BY", "REASON"),
    _row,
    empty="no drills; a template's `drill` in its file schedules them, `prebuilds drills run` begins one",
    drop=("BY", "VERSION", "BEGUN", "STAGE", "DRILL"),
)
