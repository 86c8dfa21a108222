"""`prebuilds migrate`: create or upgrade the schema beside running workers, and say before what that would do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import require_database
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, note
from prebuilds.cli.system import Roles, duration

if TYPE_CHECKING:
    from prebuilds.views import Migrated, MigrationPlan

NEEDED = 1
"""Exit code of `--check` when `prebuilds migrate` has something to do."""
FINISH = "run `prebuilds migrate --finish` when the last process of the release before has ended"


def migrate(
    check: Annotated[
        bool,
        typer.Option("--check", help="Only say what would be done; the exit code is 1 if there is anything, else 0"),
    ] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Shut out the release before, once no process of it runs any more")
    ] = False,
    timeout: Annotated[
        str, typer.Option(help="How long each step waits for transactions of others, such as a long report")
    ] = "10m",
    roles: Roles = None,
) -> None:
    """Create or upgrade the schema while workers of the release before go on. Safe to repeat, to kill and to run from
    several places at once."""

    async def go() -> None:
        require_database()
        from prebuilds.operations import system

        if check:
            plan = await system.plan_migration()
            document(plan, human=_planned(plan))
            if plan.needed:
                raise typer.Exit(NEEDED)
            return
        patience = duration(timeout, "timeout")
        done = await system.migrate(finish=finish, patience=patience, roles=roles, tell=tell_step)
        document(done, human=migrated_in_words(done))

    run_command(go())


def tell_step(text: str) -> None:
    """Print what a migration does, on stderr; nothing with --json."""
    if not output.AS_JSON:
        note(text)


def migrated_in_words(done: Migrated) -> str:
    """Say what a migration has done."""
    roles = [f"roles: {', '.join(done.roles)}"] if done.roles else []
    return "\n".join([_schema_in_words(done), *roles, *(f"warning: {warning}" for warning in done.warnings)])


def _schema_in_words(done: Migrated) -> str:
    if done.schema_before is None:
        return f"schema {done.schema_now}: created"
    if done.finished:
        how = "up to date" if done.schema_before == done.schema_now else f"upgraded from {done.schema_before}"
        return f"schema {done.schema_now}: {how}"
    how = f"upgraded from {done.schema_before}" if done.steps else "up to date"
    return f"schema {done.schema_now}: {how}; the release before may go on beside this one. {FINISH.capitalize()}"


def _planned(plan: MigrationPlan) -> str:
    if plan.schema_before is None:
        return f"the database has no schema; `prebuilds init` creates {plan.schema_now}"
    lines = [f"step {step.name} ({step.kind})" for step in plan.steps]
    if plan.needed:
        return "\n".join([*lines, f"schema {plan.schema_now} is not complete: run `prebuilds migrate`"])
    if plan.finished:
        return f"schema {plan.schema_now}: up to date"
    return f"schema {plan.schema_now}: up to date; the release before may go on beside this one. {FINISH.capitalize()}"
