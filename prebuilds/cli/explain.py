"""`prebuilds explain`: explains the size of a pool and the outcome of a claim, and lists waiting claims."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.api import InvalidInput
from prebuilds.cli import output
from prebuilds.cli.connections import operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.lists import PART, After, All, Limit, ListTable, note_more, run_list
from prebuilds.cli.output import document
from prebuilds.vocabulary.words import clock, held_in_words, in_words, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prebuilds.views import ClaimExplanation, EventRow, PresetExplanation, QueuedClaim

app = typer.Typer(help="Show the recorded decisions behind an outcome, in order.", no_args_is_help=True)


@app.command("preset")
def explain_preset(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help="organization/template/preset, or an id")],
    at: Annotated[str | None, typer.Option(help="The time to explain, such as 2026-03-02T09:14:00Z")] = None,
    limit: Annotated[int, typer.Option(help="Maximum number of events; the newest are shown")] = 100,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Show the events before those of an earlier call")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every event, however many")] = False,
) -> None:
    """Explain the size of a preset's pool, now or at a past time, with its newest events, oldest first."""

    async def go() -> None:
        moment = None if at is None else _moment(at)
        async with operations() as system:
            read = partial(system.explain.preset, preset, moment)
            explanation = await read(limit=PART if all_ else limit, after=after)
            while all_ and explanation.next is not None:
                older = await read(limit=PART, after=explanation.next)
                events = [*older.events, *explanation.events]
                explanation = explanation.model_copy(update={"events": events, "next": older.next})
        document(explanation, human=_describe_preset(explanation))
        if not output.AS_JSON:
            note_more(explanation.next)

    run_command(go())


@app.command("claim")
def explain_claim(claim_id: Annotated[str, typer.Argument(metavar="ID", help="The claim's id")]) -> None:
    """Explain the outcome of a claim."""

    async def go() -> None:
        async with operations() as system:
            explanation = await system.explain.claim(claim_id)
        document(explanation, human=_describe_claim(explanation))

    run_command(go())


@app.command("waiting")
def explain_waiting(
    preset: Annotated[
        str | None, typer.Argument(metavar="PRESET", help="organization/template/preset, or an id")
    ] = None,
    limit: Limit = 100,
    after: After = None,
    all_: All = False,
) -> None:
    """List the claims that wait for a prebuild, in the order in which they are served."""
    run_list(WAITING, lambda system: partial(system.explain.waiting, preset), limit, after, all_)


def _waiting_row(w: QueuedClaim) -> tuple[object, ...]:
    since, until = clock(w.queued_at, None), clock(w.deadline, w.queued_at)
    return (one_line(w.claim_id), w.preset, w.position, f"{w.owner}/{w.name}", since, until)


WAITING = ListTable(
    "waiting",
    ("CLAIM", "PRESET", "POSITION", "OWNER/NAME", "SINCE", "UNTIL"),
    _waiting_row,
    empty="no claim waits",
    drop=("SINCE", "PRESET"),
)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput.field("at", f"{text} must be a time such as 2026-03-02T09:14:00Z") from error
    if moment.tzinfo is None:
        raise InvalidInput.field("at", f"{text} has no time zone", f"write {text}Z or {text}+01:00")
    if not 2000 <= moment.year < 9999:
        raise InvalidInput.field("at", f"{text} must be in the years from 2000 to 9998")
    return moment.astimezone(UTC)


def _describe_preset(found: PresetExplanation) -> str:
    by = " by its target" if found.sized else ""
    by = f" by the{' coming' if found.early else ''} window {found.window}" if found.window else by
    base = "it has no pool" if found.base is None else f"base {found.base}"
    held = f"; creation held: {held_in_words(found.held, found.held_until)}" if found.held else ""
    unsure = "" if found.settings_recorded else "; the settings of that time are not recorded, these are the oldest"
    chosen = " by its target" if found.paused_sized else ""
    paused = f", paused {found.paused}{chosen}" if found.paused or found.paused_sized else ""
    head = f"{found.preset} at {clock(found.at, None)}: desired {found.desired}{by}{paused}, {base}{held}{unsure}"
    return "\n".join([head, f"preset {found.preset_id}", *_describe_events(found.events, found.at)])


def _describe_claim(found: ClaimExplanation) -> str:
    outcome = (found.outcome or "undecided") + (f": {found.miss_reason}" if found.miss_reason else "")
    if found.position is not None and found.deadline is not None:
        outcome = f"waiting at position {found.position} until {clock(found.deadline, found.created_at)}"
    facts = [f"workspace {found.workspace_id}" if found.workspace_id else found.error or "no workspace"]
    facts += [f"preset {found.preset_id}"] if found.preset_id else []
    head = f"claim {found.claim_id}, asked at {clock(found.created_at, None)}: {outcome}"
    return "\n".join([head, ", ".join(facts), *_describe_events(found.events, found.created_at)])


def _describe_events(events: Sequence[EventRow], near: datetime) -> list[str]:
    return [f"{clock(event.at, near)} {in_words(event)}" for event in events] or ["nothing is recorded"]
