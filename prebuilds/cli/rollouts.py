"""`prebuilds rollouts`: how new versions replace pools."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.lists import After, All, Limit, ListTable, run_list
from prebuilds.cli.output import document, say_line
from prebuilds.cli.system import actor
from prebuilds.vocabulary.words import MAKE_ROOM, NO_ROOM, clock

if TYPE_CHECKING:
    from prebuilds.views.rollouts import RolloutCanary, RolloutPool, RolloutRow

app = typer.Typer(help="See, pause and undo how new versions replace pools.", no_args_is_help=True)

Template = Annotated[str, typer.Argument(help="organization/template, or an id; its newest rollout is meant")]


@app.command("list")
def list_(
    template: Annotated[str | None, typer.Argument(help="organization/template, or an id")] = None,
    limit: Limit = 100,
    after: After = None,
    all_: All = False,
) -> None:
    """List rollouts, newest first."""
    run_list(ROLLOUTS, lambda system: partial(system.rollouts.list, template), limit, after, all_)


@app.command()
def show(template: Template) -> None:
    """Show a template's newest rollout, with the pools that it replaces."""
    _run(lambda system: system.rollouts.show(template))


@app.command()
def pause(template: Template) -> None:
    """Stop making prebuilds of the new version. What claims take is made anew from the version before."""
    _run(lambda system: system.rollouts.pause(actor(), template))


@app.command()
def resume(template: Template) -> None:
    """Let a paused rollout go on."""
    _run(lambda system: system.rollouts.resume(actor(), template))


@app.command()
def undo(template: Template) -> None:
    """Activate the version again from which the newest rollout began. Counts and other policy stay as they are."""
    _run(lambda system: system.rollouts.undo(actor(), template))


def _run(ask: Callable[[Any], Awaitable[RolloutRow]]) -> None:
    async def go() -> None:
        async with operations() as system:
            _print(await ask(system))

    run_command(go())


def _print(row: RolloutRow) -> None:
    why = "" if row.reason is None else f": {row.reason}"
    versions = f"from version {row.from_version} to {row.to_version}"
    document(row, human=f"rollout of {row.template} {versions}: {row.state}{why}, {row.progress}% done")
    if not output.AS_JSON and row.canary is not None:
        say_line(_canary(row.canary))
    if not output.AS_JSON:
        for pool in row.pools:
            say_line(_pool(pool))


def _canary(canary: RolloutCanary) -> str:
    share = f"{canary.new_claims} of {canary.claims} claims by name were the new version's, {canary.percent}% may be"
    evidence = "" if canary.evidence is None else f"; {canary.evidence}"
    if canary.min_claims is not None:
        evidence += f"; passes after {canary.min_claims} hand-overs, {canary.handed_over} so far"
    return f"  canary {canary.state}: {share}{evidence}"


def _pool(pool: RolloutPool) -> str:
    held = "" if pool.held is None else f"; held: {pool.held}"
    held += f", {NO_ROOM}: {MAKE_ROOM}" if pool.lacks_room else ""
    new = f"new {pool.new_ready} ready, {pool.new_starting} starting"
    return (
        f"  {pool.preset}: {pool.desired} wanted; {new}; old {pool.old_ready} ready, {pool.old_starting} starting{held}"
    )


def _row(row: RolloutRow) -> tuple[object, ...]:
    what = (row.template, row.from_version, row.to_version, row.state, f"{row.progress}%")
    return (*what, clock(row.started_at, None), row.started_by, row.reason)


ROLLOUTS = ListTable(
    "rollouts",
    ("TEMPLATE", "FROM", "TO", "STATE", "DONE", "STARTED", "BY", "REASON"),
    _row,
    empty="no rollouts; one begins when a new version replaces a pool",
    drop=("BY", "STARTED"),
)
