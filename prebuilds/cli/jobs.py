"""`prebuilds jobs`: lists and cancels builds. A claim's initiator is a person, so no claim is among the pools' jobs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli.connections import operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.lists import After, All, Limit, ListTable, run_list
from prebuilds.cli.output import document, progress
from prebuilds.cli.system import actor
from prebuilds.vocabulary.words import one_line

if TYPE_CHECKING:
    from prebuilds.views import JobFilter, JobRow

app = typer.Typer(help="List and cancel builds.", no_args_is_help=True)

Initiator = Annotated[str | None, typer.Option(help="Who requested the build; `prebuilds` for the pools' own builds")]
Status = Annotated[list[str] | None, typer.Option(help="pending, running, succeeded, ...; repeat for more")]
Template = Annotated[str | None, typer.Option(help="organization/template, or an id")]


@app.command("list")
def list_(
    initiator: Initiator = None,
    status: Status = None,
    template: Template = None,
    limit: Limit = 100,
    after: After = None,
    all_: All = False,
) -> None:
    """List builds, newest first."""
    job_filter = _parse_filter(initiator, status, template)
    run_list(JOBS, lambda system: partial(system.jobs.list, job_filter), limit, after, all_)


def _row(j: JobRow) -> tuple[object, ...]:
    error = one_line(j.error) if j.error else None
    what = (j.build_id, j.workspace, j.preset, j.transition, j.stage, j.status)
    return (*what, j.initiator, j.queue, j.created_at, error)


JOBS = ListTable(
    "jobs",
    ("BUILD", "WORKSPACE", "PRESET", "TRANSITION", "STAGE", "STATUS", "INITIATOR", "QUEUE", "CREATED", "ERROR"),
    _row,
    empty="no jobs",
    drop=("QUEUE", "STAGE", "INITIATOR", "CREATED", "PRESET", "TRANSITION", "WORKSPACE"),
)


@app.command()
def cancel(
    initiator: Initiator = None,
    status: Status = None,
    template: Template = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the builds without canceling them")] = False,
) -> None:
    """Cancel all builds that match: pending ones, unless --status names other states."""

    async def go() -> None:
        job_filter = _parse_filter(initiator, status, template)
        if job_filter.empty:
            raise typer.BadParameter("give at least one of --initiator, --status and --template")
        async with operations() as system:
            with progress("canceling") as report:
                done = await system.jobs.cancel(
                    actor(), job_filter, dry_run=dry_run, on_progress=lambda n: report(f"canceled {n}")
                )
        would = "would be canceled" if dry_run else "canceled"
        document(done, human=f"{done.canceled} {would}, {done.skipped} skipped")

    run_command(go())


def _parse_filter(initiator: str | None, status: list[str] | None, template: str | None) -> JobFilter:
    from prebuilds.payloads import parse_input
    from prebuilds.views import JobFilter

    given = {"initiator": initiator, "status": status or [], "template": template}
    return parse_input(JobFilter, given, "filter")
