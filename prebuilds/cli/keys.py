"""`prebuilds keys`: which keys the database's values need, and encrypting these anew by the current one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import require_database
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, say_line, table
from prebuilds.cli.system import actor

if TYPE_CHECKING:
    from prebuilds.views import KeysReport, KeyUse

INCOMPLETE = 1
"""Exit code of `keys rotate` when something is not encrypted by the current key afterwards."""

app = typer.Typer(help="Keys that encrypt what is secret in the database.", no_args_is_help=True)


@app.command()
def show() -> None:
    """Which keys are still needed, by their ids, and for how much. A key that nothing needs may be removed from
    PREBUILDS_STATE_KEY once no worker has it as its first one."""

    async def go() -> None:
        require_database()
        from prebuilds.operations import keys

        report = await keys.show_keys()
        document(report)
        if not output.AS_JSON:
            _print_report(report)

    run_command(go())


@app.command()
def rotate() -> None:
    """Encrypt by the first key of PREBUILDS_STATE_KEY what another one has encrypted, or none. Safe to repeat, to kill,
    and beside workers. The exit code is 1 when something still needs another key afterwards."""

    async def go() -> None:
        require_database()
        from prebuilds.cli.migrating import tell_step
        from prebuilds.operations import keys

        done = await keys.rotate_keys(actor(), tell=tell_step)
        document(done)
        if not output.AS_JSON:
            say_line(
                f"encrypted anew: {done.changed_claims} secrets of claimed workspaces, "
                f"{done.changed_waiting} of claims that wait, {done.changed_states} saved states"
            )
            _print_report(done)
        if not done.complete:
            raise typer.Exit(INCOMPLETE)

    run_command(go())


def _print_report(report: KeysReport) -> None:
    table(
        ("KEY", "IS", "CLAIMS", "WAITING", "STATES", "REQUESTS' KEY", "NEEDED"),
        [
            (
                use.key or ("-" if use.standing == "clear" else "unknown"),
                use.standing,
                use.claims,
                use.waiting,
                use.states,
                "yes" if use.request_key else "no",
                "yes" if use.needed else "no",
            )
            for use in report.keys
        ],
        empty="nothing is encrypted, and nothing secret is stored",
    )
    for use in report.keys:
        if hint := _hint(use):
            say_line(hint)
    if report.payload_keys:
        first, *older = report.payload_keys
        say_line(f"payload keys, for Temporal: {first} encrypts{''.join(f', {key} opens' for key in older)}")
        if older:
            say_line("the older ones are needed until retention has passed since workers stopped encrypting by them")


def _hint(use: KeyUse) -> str | None:
    if use.standing == "older" and not use.needed:
        return f"{use.key} may be removed from PREBUILDS_STATE_KEY once no worker has it as its first key"
    if use.standing in ("older", "clear") and use.needed:
        return f"`prebuilds keys rotate` encrypts anew what {use.key or 'is readable without a key'} is counted for"
    if use.standing == "missing":
        return f"{use.key or 'an unknown key'} is not in PREBUILDS_STATE_KEY: add it, after a comma, to rotate"
    return None
