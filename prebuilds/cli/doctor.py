"""`prebuilds doctor`: prints what is wrong with this installation, and what to do."""

from __future__ import annotations

import typer

from prebuilds.cli.connections import examine
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, progress, say, say_line, table


def doctor() -> None:
    """Check everything that Prebuilds depends on, and say what to do where a check fails (exit code 1)."""
    from prebuilds.cli import output

    with progress("checking"):
        report = run_command(examine())
    document(report)
    if not output.AS_JSON:
        table(("CHECK", "OK", "FOUND"), [(check.name, check.ok, check.detail) for check in report.checks], empty="")
        remedies: dict[str, str] = {}  # remedy -> check; a remedy of several checks is printed once, at the first
        for check in report.checks:
            if check.remedy is not None:
                remedies.setdefault(check.remedy, check.name)
        if remedies:
            say("\nto do")
        for remedy, name in remedies.items():
            say_line(f"  {name}: {remedy}")
    if not report.ok:
        raise typer.Exit(1)
