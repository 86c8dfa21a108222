"""`prebuilds inventory`: what exists, against what is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import prebuilds_client
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, progress, say_line, table

if TYPE_CHECKING:
    from temporalio.client import Client

    from prebuilds.views import InventoryReport

RUNS_MAX = 3
"""One that only looks may be running when one that acts is asked for; so may the next."""


def inventory(
    fix: Annotated[
        bool, typer.Option("--fix", help="Act on what was seen before: remove orphans, replace what has vanished")
    ] = False,
) -> None:
    """Compare what provisioners say exists with what is recorded: orphans, and workspaces that have vanished."""

    async def go() -> None:
        client = await prebuilds_client()
        with progress("asking every host"):
            report = await _report(client.temporal, fix)
        document(report)
        if not output.AS_JSON:
            _show(report)

    run_command(go())


async def _report(client: Client, fix: bool) -> InventoryReport:
    from temporalio.client import WorkflowFailureError
    from temporalio.service import RPCError

    from prebuilds.api import StackUnreachable
    from prebuilds.background.relay import start_inventory
    from prebuilds.temporal.connecting import error_of
    from prebuilds.views import InventoryReport

    for _ in range(RUNS_MAX):
        try:
            run = await start_inventory(client, fix=fix)
            report = InventoryReport.model_validate(await run.result())
        except WorkflowFailureError as failure:
            raise error_of(failure.cause) from failure
        except RPCError as error:
            raise StackUnreachable(f"Temporal does not answer ({error.status.name}): {error}") from error
        if report.fix or not fix:
            return report
    raise StackUnreachable("others keep looking without acting; try again in a moment")


def _show(report: InventoryReport) -> None:
    table(
        ("FINDING", "WORKSPACE", "PROVISIONER", "HOST", "FIRST SEEN", "SIGHTINGS", "CLAIMED BY", "ACTION"),
        [
            (r.finding, r.workspace_id, r.provisioner, r.host, r.first_seen_at, r.sightings, r.claimed_by, r.action)
            for r in report.findings
        ],
        empty="what exists is what is recorded",
    )
    if report.omitted:
        say_line(f"and {report.omitted} more")
    for place in report.unavailable:
        at = f"host {place.host}" if place.host else f"queue {place.queue}"
        say_line(f"not known: {place.provisioner} at {at}: {place.error}")
