"""`prebuilds inventory`: compare what exists on the hosts with what is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import inventories
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, progress, say_line, table
from prebuilds.cli.system import actor

if TYPE_CHECKING:
    from prebuilds.views import InventoryReport


def inventory(
    fix: Annotated[
        bool,
        typer.Option(
            "--fix", help="Remove orphans and replace what has vanished, if an earlier inventory saw them, too"
        ),
    ] = False,
) -> None:
    """Compare what exists on the hosts with what is recorded, and list orphans and workspaces that have vanished."""

    async def go() -> None:
        async with inventories() as operations:
            with progress("waiting for every host's answer"):
                report = await (operations.fix(actor()) if fix else operations.compare())
        document(report)
        if not output.AS_JSON:
            _show(report)

    run_command(go())


def _show(report: InventoryReport) -> None:
    table(
        ("FINDING", "WORKSPACE", "PROVISIONER", "HOST", "FIRST SEEN", "SIGHTINGS", "CLAIMED BY", "ACTION"),
        [
            (r.finding, r.workspace_id, r.provisioner, r.host, r.first_seen_at, r.sightings, r.claimed_by, r.action)
            for r in report.findings
        ],
        empty="No orphans, nothing missing.",
    )
    if report.omitted:
        say_line(f"{report.omitted} more findings are not shown")
    for place in report.unavailable:
        at = f"host {place.host}" if place.host else f"queue {place.queue}"
        say_line(f"Could not check {place.provisioner} at {at}: {place.error}")
