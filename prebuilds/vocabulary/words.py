"""Events, holds and times in words, as the command line and the page show them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # commands that only print their help load no models
    from prebuilds.views.events import EventRow


def clock(moment: datetime, near: datetime | None, zone: tzinfo | None = None) -> str:
    """Format a time with its offset from UTC, and with its date unless that is the date of *near*.

    Args:
        zone: None for the local time zone.
    """
    local = moment.astimezone(zone)
    text = local.isoformat(sep=" ", timespec="seconds")
    if near is not None and local.date() == near.astimezone(zone).date():
        return text.partition(" ")[2]
    return text


def held_in_words(reason: str, until: datetime | None, near: datetime | None = None, zone: tzinfo | None = None) -> str:
    """`backoff until 14:03:10+01:00`; *near* and *zone* are as for `clock`, *near* being now unless it is given."""
    if until is None:
        return reason
    return f"{reason} until {clock(until, near or datetime.now(UTC), zone)}"


NO_ROOM = "the organization's pool_members leaves no room for the surge"
MAKE_ROOM = "raise it, or allow max_unavailable"


def one_line(message: str) -> str:
    """Shorten an error of several lines to its first line (what happened) and its last (the end of a log)."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["no message"]
    return lines[0] if len(lines) == 1 else f"{lines[0]} {'' if len(lines) == 2 else '... '}{lines[-1]}"


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


def _describe_known_event(  # noqa: PLR0911, PLR0912, PLR0915 - one case for each kind
    kind: str, data: dict[str, Any], actor: str, at: datetime, zone: tzinfo | None
) -> str | None:
    """Describe an event of a known kind; None for an unknown kind."""
    match kind:
        case "prebuilds_created":
            return f"created {len(data['workspaces'])}: {_describe_counts(data)}"
        case "prebuilds_resumed" | "prebuilds_paused":
            return f"{kind.removeprefix('prebuilds_')} {len(data['workspaces'])}: {_describe_counts(data)}"
        case "prebuilds_deleted":
            reasons = {reason: len(ids) for reason, ids in data["reasons"].items()}
            each = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
            return f"deleted {sum(reasons.values())}: {each}"
        case "creations_canceled":
            return f"canceled {len(data['workspaces'])} creations: {data['cause']}"
        case "claim_passed_over":
            return f"passed over in the queue: {data['limit']} is {data['maximum']}, and {data['used']} are used"
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
        case "pool_resized":
            before, after = data["changes"]["sized"]
            if data.get("mode") == "suggest":
                return f"size for the target, {before}, no longer followed"
            was = "" if before is None else f" from {before}"
            paused = _describe_paused(data["changes"].get("sized_paused"))
            return (
                f"size for the target{was} to {after}{paused}: {data['rule']}, lead time {data['lead_seconds']:.0f} s"
            )
        case "head_start_changed":
            minutes = data["changes"]["head_start_seconds"][1] / 60
            return f"creations for a window begin {minutes:g} min before it: lead time {data['lead_seconds']:.0f} s"
        case "applied":
            done = [f"{what} {_list_few(data[what])}" for what in ("created", "updated") if data[what]]
            return f"applied by {actor}: {'; '.join(done)}"
        case "rollout_started":
            return f"rollout from version {data['from']} to {data['to']} begun by {actor}"
        case "rollout_progress":
            return f"rollout to version {data['to']}: {data['progress']}% of the prebuilds are new"
        case "rollout_failed":
            return f"rollout to version {data['to']} failed, the old version stays: {data['reason']}"
        case "rollout_superseded" | "rollout_undone":
            ended = kind.removeprefix("rollout_")
            return f"rollout to version {data['to']} {ended}: version {data['by_version']} became active"
        case "rollout_succeeded" | "rollout_paused" | "rollout_resumed" | "rollout_goes_on":
            change = kind.removeprefix("rollout_").replace("_", " ")
            return f"rollout to version {data['to']} {change}" + ("" if actor == "prebuilds" else f" by {actor}")
        case "canary_passed" | "canary_ended":
            return f"canary of version {data['to']} {kind.removeprefix('canary_')}: it goes on to all"
        case "canary_failed":
            return f"canary of version {data['to']} failed, version {data['from']} is active again: {data['reason']}"
        case "template_deprecated" | "template_restored" | "template_deleted":
            return f"template {kind.removeprefix('template_')} by {actor}"
        case "paused":
            return f"paused by {actor}: {data['reason']}"
        case "deployment_bound":
            return f"bound to the Temporal namespace {data['namespace']} by {actor}"
        case "loop_stopped":
            return f"loop stopped by {actor}: {data['cause']}"
        case "loop_started":
            again = data.get("was") == "running"
            return "loop started again, since it had ended unasked" if again else f"loop started by {actor}"
        case "build_succeeded" | "build_failed" | "build_canceled":
            stage = "" if data["stage"] == "none" else f" ({data['stage']})"
            why = f": {one_line(data['error'])}" if data["error"] else ""
            return f"{data['transition']}{stage} {kind.removeprefix('build_')}{why}"
        case "claim_resumes":
            deadline = clock(datetime.fromisoformat(data["deadline"]), at, zone)
            return f"none was ready: a paused prebuild is resumed, which should be usable by {deadline}"
        case "drill_succeeded" | "drill_failed" | "drill_skipped":
            return _describe_drill(kind.removeprefix("drill_"), data)
        case "claim_prebuilt":
            return f"claimed by {actor} as {data['owner']}/{data['name']}"
        case "claim_near_miss":
            return f"claim by {actor} missed {data['preset']} by {data['parameter']} alone"
        case "member_added" if "user" in data:
            return f"{data['user']} added to {data['organization']} by {actor}"
        case "lease_ending":
            until, release_at = (datetime.fromisoformat(data[name]) for name in ("lease_until", "release_at"))
            return f"lease ends at {clock(until, at, zone)}; released at {clock(release_at, at, zone)} unless renewed"
        case "lease_renewed":
            return f"lease renewed by {actor} until {clock(datetime.fromisoformat(data['lease_until']), at, zone)}"
        case "acted" if data["reason"] == "lease":
            return "released, as its lease has ended"
        case "transferred":
            return f"{data['from']} handed to {data['to']} by {actor}"
        case "claim_created":
            return (
                f"claim by {actor}: created {data['owner']}/{data['name']}, as nothing was ready: {data['miss_reason']}"
            )
        case "claim_missed":
            more = f" and {data['claims'] - 1} more" if data.get("claims", 1) > 1 else ""
            return f"claim by {actor} for {data['owner']}/{data['name']}{more} missed: {data['miss_reason']}"
        case _:
            return None


def _describe_drill(outcome: str, data: dict[str, Any]) -> str:
    if outcome == "succeeded":
        return f"drill succeeded, usable {data['usable_seconds']:.1f} s after its claim"
    at = f" at {data['stage']}" if data["stage"] else ""
    return f"drill {outcome}{at}: {one_line(data['reason'])}"


def _list_few(items: Sequence[str]) -> str:
    return ", ".join(items) if len(items) <= 3 else f"{len(items)}, such as {items[-1]}"


def _describe_paused(change: Sequence[int | None] | None) -> str:
    """Describe a changed number of paused prebuilds; None: it has not changed."""
    if change is None:
        return ""
    before, after = change
    was = "" if before is None else f" from {before}"
    return f", paused{was} to {'as it is written' if after is None else after}"


def _describe_counts(data: dict[str, Any]) -> str:
    window = f" (window {data['window']})" if data["window"] else ""
    expired = f", expired {data['expired']}" if data["expired"] else ""
    return f"desired {data['desired']}{window}, actual {data['actual']}{expired}, starting {data['starting']}"
