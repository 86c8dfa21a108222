"""`prebuilds explain`: explains the size of a pool and the outcome of a claim, and lists waiting claims."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prebuilds.api import InvalidInput
from prebuilds.cli import output
from prebuilds.cli.connections import operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.lists import PART, After, All, Limit, note_more, print_list
from prebuilds.cli.output import document, one_line
from prebuilds.cli.system import clock, held_in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prebuilds.views import ClaimExplanation, EventRow, PresetExplanation, WaitingClaim

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

    async def go() -> None:
        async with operations() as system:
            await print_list(
                *("waiting", lambda n, at: system.explain.waiting(preset, limit=n, after=at), WAITING, _waiting_row),
                limit=limit,
                after=after,
                all_=all_,
                empty="no claim waits",
                drop=WAITING_DROP,
            )

    run_command(go())


WAITING = ("CLAIM", "PRESET", "POSITION", "OWNER/NAME", "SINCE", "UNTIL")
WAITING_DROP = ("SINCE", "PRESET")


def _waiting_row(w: WaitingClaim) -> tuple[object, ...]:
    since, until = clock(w.queued_at, None), clock(w.deadline, w.queued_at)
    return (one_line(w.claim_id), w.preset, w.position, f"{w.owner}/{w.name}", since, until)


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
    by = f" by the window {found.window}" if found.window else ""
    base = "it has no pool" if found.base is None else f"base {found.base}"
    held = f"; creation held: {held_in_words(found.held, found.held_until)}" if found.held else ""
    unsure = "" if found.settings_recorded else "; the settings of that time are not recorded, these are the oldest"
    head = f"{found.preset} at {clock(found.at, None)}: desired {found.desired}{by}, {base}{held}{unsure}"
    return "\n".join([head, f"preset {found.preset_id}", *_describe_events(found.events, found.at)])


def _describe_claim(found: ClaimExplanation) -> str:
    outcome = (found.outcome or "undecided") + (f": {found.miss_reason}" if found.miss_reason else "")
    if found.position is not None and found.deadline is not None:
        outcome = f"waiting at position {found.position} until {clock(found.deadline, found.created_at)}"
    facts = [f"workspace {found.workspace_id}" if found.workspace_id else "no workspace"]
    facts += [f"preset {found.preset_id}"] if found.preset_id else []
    head = f"claim {found.claim_id}, asked at {clock(found.created_at, None)}: {outcome}"
    return "\n".join([head, ", ".join(facts), *_describe_events(found.events, found.created_at)])


def _describe_events(events: Sequence[EventRow], near: datetime) -> list[str]:
    return [f"{clock(event.at, near)} {in_words(event)}" for event in events] or ["nothing is recorded"]


def in_words(event: EventRow, zone: tzinfo | None = None) -> str:
    """Describe an event on one line, without the event's own time.

    Args:
        zone: The time zone of times in the text; None for the terminal's.
    """
    try:
        text = _describe_known_event(event.kind, event.data, event.actor, event.at, zone)
    except (KeyError, TypeError, AttributeError, ValueError):  # another release recorded other data
        text = None
    if text is None:
        facts = ", ".join(f"{key} {value}" for key, value in event.data.items())
        text = f"{event.kind.replace('_', ' ')} by {event.actor}" + (f": {facts}" if facts else "")
    return " ".join(text.split())


def _describe_known_event(  # noqa: PLR0911, PLR0912 - one case for each kind
    kind: str, data: dict[str, Any], actor: str, at: datetime, zone: tzinfo | None
) -> str | None:
    """Describe an event of a known kind; None for an unknown kind."""
    match kind:
        case "prebuilds_created":
            return f"created {len(data['workspaces'])}: {_describe_counts(data)}"
        case "prebuilds_deleted":
            reasons = {reason: len(ids) for reason, ids in data["reasons"].items()}
            each = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
            return f"deleted {sum(reasons.values())}: {each}"
        case "creations_canceled":
            return f"canceled {len(data['workspaces'])} creations: {data['cause']}"
        case "creation_held":
            until = datetime.fromisoformat(data["until"]) if data["until"] else None
            return f"creation held: {held_in_words(data['reason'], until, at, zone)}"
        case "holds_lifted":
            return f"hold lifted by {actor}: {data['hold']}"
        case "schedule_unreadable":
            return f"schedule passed over, base {data['base']} used: {data['why']}"
        case "invalidated":
            return f"invalidated by {actor}: {data['prebuilds']} to be replaced"
        case "pruned":
            which = " and ".join(kind for kind in ("failed", "stopped") if data[kind])
            return f"pruned {len(data['workspaces'])} by {actor}: {which}"
        case "kept" | "keep_undone":
            return f"{data['name']} {'kept' if kind == 'kept' else 'no longer kept'} by {actor}"
        case "version_activated":
            replaced = f", replacing {data['replaces']}" if data["replaces"] else ""
            return f"version {data['version']} activated by {actor}{replaced}"
        case "pool_kept":
            return f"version {data['version']} activated by {actor}: same content as in {data['replaces']}, pool kept"
        case "policy_changed":
            changes = ", ".join(f"{field} from {old} to {new}" for field, (old, new) in data["changes"].items())
            return f"{data['what']} changed by {actor}: {changes}"
        case "applied":
            done = [f"{what} {_list_few(data[what])}" for what in ("created", "updated") if data[what]]
            return f"applied by {actor}: {'; '.join(done)}"
        case "template_deprecated" | "template_restored" | "template_deleted":
            return f"template {kind.removeprefix('template_')} by {actor}"
        case "paused":
            return f"paused by {actor}: {data['reason']}"
        case "deployment_bound":
            return f"bound to the Temporal namespace {data['namespace']} by {actor}"
        case "loop_stopped":
            return f"loop stopped by {actor}: {data['cause']}"
        case "loop_started":
            return "loop started again, since it had ended unasked" if data.get("was") else f"loop started by {actor}"
        case "build_succeeded" | "build_failed" | "build_canceled":
            stage = "" if data["stage"] == "none" else f" ({data['stage']})"
            why = f": {one_line(data['error'])}" if data["error"] else ""
            return f"{data['transition']}{stage} {kind.removeprefix('build_')}{why}"
        case "claim_prebuilt":
            return f"claimed by {actor} as {data['owner']}/{data['name']}"
        case "member_added" if "user" in data:
            return f"{data['user']} added to {data['organization']} by {actor}"
        case "transferred":
            return f"{data['from']} handed to {data['to']} by {actor}"
        case "claim_created":
            return (
                f"claim by {actor}: created {data['owner']}/{data['name']}, as nothing was ready: {data['miss_reason']}"
            )
        case "claim_missed":
            return f"claim by {actor} for {data['owner']}/{data['name']} missed: {data['miss_reason']}"
        case _:
            return None


def _list_few(items: Sequence[str]) -> str:
    return ", ".join(items) if len(items) <= 3 else f"{len(items)}, such as {items[-1]}"


def _describe_counts(data: dict[str, Any]) -> str:
    window = f" (window {data['window']})" if data["window"] else ""
    expired = f", expired {data['expired']}" if data["expired"] else ""
    return f"desired {data['desired']}{window}, actual {data['actual']}{expired}, starting {data['starting']}"
