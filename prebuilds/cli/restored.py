"""`prebuilds restored`: continue after the database was restored from a backup or a standby was promoted."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import database_operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, progress, say, say_line, table
from prebuilds.cli.system import actor

if TYPE_CHECKING:
    from prebuilds.views import RestoredReport


def restored(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what may be wrong, without changing it")] = False,
) -> None:
    """Confirm that the database was restored: mark the prebuilds from before as in doubt, and let claims and passes
    continue."""

    async def go() -> None:
        async with database_operations() as system:
            with progress("asking every host"):
                report = await system.system.restored(actor(), dry_run=dry_run)
        document(report)
        if not output.AS_JSON:
            _print_report(report)

    run_command(go())


def _print_report(report: RestoredReport) -> None:
    say_line(f"noticed: {report.found}" if report.found else "no sign that the database was restored")
    table(
        ("PREBUILD", "PRESET", "PROVISIONER", "HOST", "CREATED", "DECISION"),
        [(p.workspace_id, p.preset, p.provisioner, p.host, p.created_at, p.decision) for p in report.prebuilds],
        empty="no prebuild is in doubt",
    )
    if report.claimed:
        say()
        say_line("these were claimed, according to their hosts:")
        table(
            ("WORKSPACE", "OWNER", "CLAIM", "PROVISIONER", "HOST", "EXISTS FOR"),
            [
                (
                    c.workspace_id,
                    c.claimed_by,
                    c.claim_id,
                    c.provisioner,
                    c.host,
                    timedelta(seconds=round(c.age_seconds)),
                )
                for c in report.claimed
            ],
            empty="",
        )
    for place in report.not_asked:
        say_line(f"could not ask {place.provisioner} at {place.host or place.queue}: {place.error}")
    if report.leases:
        suspended = "will be suspended" if report.dry_run else "are suspended"
        say_line(
            f"{report.leases} leases {suspended}: this database may have forgotten renewals, so their workspaces stay "
            "until a lease is renewed, or somebody releases them"
        )
    if report.tokens:
        refused = "will be refused" if report.dry_run else "are refused"
        say_line(
            f"{report.tokens} tokens {refused} until `prebuilds tokens confirm NAME ...`, or `--all`: this database "
            "may have forgotten that one was revoked; see `prebuilds tokens list`, and revoke what you do not trust"
        )
    if report.dry_run:
        say_line("dry run, nothing was changed; `prebuilds restored` does this and lets claims and passes continue")
    else:
        say_line(f"claims and passes continue, in epoch {report.epoch}")
