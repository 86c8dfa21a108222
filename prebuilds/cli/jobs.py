"""`prebuilds jobs`: builds as jobs. A claim is initiated by a person: the pool's jobs never contain one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, table
from prebuilds.cli.system import actor

if TYPE_CHECKING:
    from prebuilds.views import JobFilter

app = typer.Typer(help="Builds as jobs.", no_args_is_help=True)

Initiator = Annotated[str | None, typer.Option(help="Who asked for them; `prebuilds` for the pools' own")]
Status = Annotated[list[str] | None, typer.Option(help="pending, running, succeeded, ...; repeat for more")]
Template = Annotated[str | None, typer.Option(help="organization/template, or an id")]


@app.command("list")
def list_(initiator: Initiator = None, status: Status = None, template: Template = None) -> None:
    """Builds, newest first."""

    async def go() -> None:
        wanted = _filter(initiator, status, template)
        async with operations() as system:
            rows = await system.list_jobs(wanted)
        document({"jobs": rows})
        if not output.AS_JSON:
            table(
                ("BUILD", "TRANSITION", "STAGE", "STATUS", "INITIATOR", "QUEUE", "CREATED", "ERROR"),
                [
                    (
                        *(j.build_id, j.transition, j.stage, j.status, j.initiator, j.queue, j.created_at),
                        (j.error or "").split("\n")[0],
                    )
                    for j in rows
                ],
                empty="no jobs",
            )

    run_command(go())


@app.command()
def cancel(
    initiator: Initiator = None,
    status: Status = None,
    template: Template = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many, and cancel none")] = False,
) -> None:
    """Cancel builds: pending ones, unless --status says otherwise."""

    async def go() -> None:
        wanted = _filter(initiator, status, template)
        if wanted.empty:
            raise typer.BadParameter("give at least one of --initiator, --status and --template")
        async with operations() as system:
            done = await system.cancel_jobs(wanted, actor(), dry_run=dry_run)
        would = "would be canceled" if dry_run else "canceled"
        document(done, human=f"{done.canceled} {would}, {done.skipped} skipped")

    run_command(go())


def _filter(initiator: str | None, status: list[str] | None, template: str | None) -> JobFilter:
    from prebuilds.payloads import parse_input
    from prebuilds.views import JobFilter

    given = {"initiator": initiator, "status": status or [], "template": template}
    return parse_input(JobFilter, given, "filter")
