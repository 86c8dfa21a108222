"""`prebuilds restored`: go on after the database was restored from a backup, or a standby was promoted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, say_line, table
from prebuilds.cli.system import actor

if TYPE_CHECKING:
    from prebuilds.views import RestoredReport


def restored(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what may be wrong, and change nothing")] = False,
) -> None:
    """Say that the database was restored: doubt every prebuild of before, and let claims and passes go on."""

    async def go() -> None:
        async with operations() as system:
            report = await system.restored(actor(), dry_run=dry_run)
        document(report)
        if not output.AS_JSON:
            _show(report)

    run_command(go())


def _show(report: RestoredReport) -> None:
    say_line(f"noticed: {report.found}" if report.found else "nothing was noticed that this database lacks")
    table(
        ("PREBUILD", "PRESET", "PROVISIONER", "HOST", "CREATED", "DECISION"),
        [(p.workspace_id, p.preset, p.provisioner, p.host, p.created_at, p.decision) for p in report.prebuilds],
        empty="no prebuild is in doubt",
    )
    if report.dry_run:
        say_line("dry run, nothing was changed; `prebuilds restored` does this and lets claims and passes go on")
    else:
        say_line(f"claims and passes go on, in epoch {report.epoch}")
