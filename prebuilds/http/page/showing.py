"""What each page shows to one viewer, made of a state that all viewers share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prebuilds.http.page.acts import build_offers, loop_offers, preset_offers, workspace_offers
from prebuilds.http.page.rendering import HOLDS, warning
from prebuilds.http.page.signing_in import Viewer
from prebuilds.http.page.states import Pool, Pools, WorkspaceState
from prebuilds.http.page.watching import Reading
from prebuilds.operations.facade import Operations
from prebuilds.planning.policy import Action
from prebuilds.views import ClaimExplanation, JobRow, LimitRow, LoopStatus
from prebuilds.views.pools import HourFigures, PoolRow
from prebuilds.vocabulary import ORCHESTRATOR_ID, PREBUILDS_USER, build_workflow_id, claim_workflow_id
from prebuilds.vocabulary.words import one_line

BUILDS_SHOWN = 15
FOR_SOMEBODY = ("hard_limited", "validation_failed")
"""Holds that stay until a person acts."""
Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that wants a person."""

    text: str
    remedy: str | None = None
    preset: str | None = None
    """The pool that it is about; None for the whole deployment."""


def path_of(row: PoolRow) -> str:
    """`organization/template/preset`."""
    return f"{row.organization}/{row.template}/{row.preset}"


def show_pools(operations: Operations, viewer: Viewer, reading: Reading[Pools]) -> Values:
    """The page of all pools, with those of the viewer's organizations."""
    overview, state = reading.state.overview, reading.state
    rows = [row for row in overview.presets if viewer.sees(row.organization)]
    builds = [job for job in overview.unfinished if _sees_job(viewer, job)]
    doctor = state.doctor if viewer.may(Action.SEE_DOCTOR) else None
    alarms = _loop_alarms(overview.loop) + [alarm for row in rows for alarm in _pool_alarms(row)]
    alarms += [_limit_alarm(row) for row in overview.limits if _is_alarming(row) and viewer.sees(row.organization)]
    if doctor is not None:
        alarms += [
            Alarm(f"{check.name.replace('_', ' ')}: {check.detail or 'not ok'}", check.remedy)
            for check in doctor.checks
            if not check.ok and check.name != "presets"  # each pool has its own alarm
        ]
    counts = [count for count in overview.unfinished_counts if viewer.may(Action.SEE_JOBS, count.organization)]
    pending = sum(count.builds for count in counts if count.status == "pending")
    unfinished = sum(count.builds for count in counts)
    return {
        "now": overview.read_at,
        "away": reading.away,
        "loop": overview.loop,
        "loop_page": operations.pools.workflow_page(ORCHESTRATOR_ID),
        "offers": loop_offers(viewer, overview.loop),
        "alarms": alarms,
        "examined": doctor,
        "examines": viewer.may(Action.SEE_DOCTOR),
        "pools": [
            (row, path_of(row), state.hour.get(row.preset_id) or HourFigures(preset_id=row.preset_id)) for row in rows
        ],
        "builds": builds[:BUILDS_SHOWN],
        "builds_more": max(unfinished - BUILDS_SHOWN, 0),
        "pending": pending,
        "running": unfinished - pending,
        "max_pending": overview.max_pending_builds,
        "build_offers": build_offers(viewer, pending),
    }


def _sees_job(viewer: Viewer, job: JobRow) -> bool:
    organization = None if job.preset is None else job.preset.partition("/")[0]
    return viewer.may(Action.SEE_JOBS, organization)


def _loop_alarms(loop: LoopStatus) -> list[Alarm]:
    alarms = [Alarm(f"The loop: {loop.note}")] if loop.note else []
    if loop.state == "never_started":
        alarms.append(Alarm("The loop was never started, so no pool is filled", "start it"))
    return alarms


def _is_alarming(row: LimitRow) -> bool:
    return row.limit == "workspaces" and row.reached


def _limit_alarm(row: LimitRow) -> Alarm:
    """Return the alarm of an organization that may have no more workspaces. Other limits are shown elsewhere, or
    concern one member or one minute."""
    text = f"{row.organization} has {row.used} of {row.maximum} workspaces, so claims are refused"
    return Alarm(text, "release some, or raise `limits` in its template file and apply it")


def _pool_alarms(row: PoolRow) -> list[Alarm]:
    path = path_of(row)
    alarms = [Alarm(warning(text), None, path) for text in row.warnings]
    if row.active and row.held in FOR_SOMEBODY:
        why = one_line(row.last_error.message) if row.last_error is not None else "see its failures"
        alarms.append(Alarm(f"{HOLDS[row.held]}: {why}", "repair the cause, then resume creation", path))
    return alarms


def show_pool(operations: Operations, viewer: Viewer, reading: Reading[Pool]) -> Values:
    """The page of one preset."""
    details = reading.state.details
    path = details.explanation.preset
    organization = path.partition("/")[0]
    hour = reading.state.hour or HourFigures(preset_id=details.explanation.preset_id)
    return {
        "now": details.read_at,
        "away": reading.away,
        "path": path,
        "pool": details.pool,
        "alarms": [] if details.pool is None else _pool_alarms(details.pool),
        "details": details,
        "hour": hour,
        "offers": preset_offers(viewer, details.pool, organization),
        "workflow": operations.pools.workflow_page(f"reconcile-preset/{details.explanation.preset_id}"),
    }


def show_workspace(operations: Operations, viewer: Viewer, reading: Reading[WorkspaceState]) -> Values:
    """The page of one workspace."""
    workspace = reading.state.workspace
    return {
        "now": reading.at,
        "away": reading.away,
        "workspace": workspace,
        "path": f"{workspace.owner}/{workspace.name}",
        "preset": _preset_of(workspace.organization, workspace.template, workspace.preset),
        "builds": [
            (build, phases_of(build, reading.at), operations.pools.workflow_page(build_workflow_id(build.build_id)))
            for build in reversed(workspace.builds)
        ],
        "logged": reading.state.logged,
        "log": reading.state.log if viewer.may(Action.SEE_LOG, workspace.organization, (workspace.owner,)) else [],
        "offers": workspace_offers(viewer, workspace),
        "unclaimed": workspace.owner == PREBUILDS_USER,
    }


def _preset_of(organization: str, template: str, preset: str | None) -> str | None:
    return None if preset is None else f"{organization}/{template}/{preset}"


def phases_of(build: JobRow, now: datetime) -> list[tuple[str, float]]:
    """A build's phases, as classes of the chart with their seconds: until it began, and until it ended or now."""
    begun = build.started_at or build.completed_at or now
    ended = build.completed_at or now
    parts = [("waits", max((begun - build.created_at).total_seconds(), 0.0))]
    if build.started_at is not None:
        kind = "failed" if build.status == "failed" else "works"
        parts.append((kind, max((ended - begun).total_seconds(), 0.0)))
    return parts


def show_claim(operations: Operations, viewer: Viewer, reading: Reading[ClaimExplanation]) -> Values:
    """The page of one claim."""
    claim = reading.state
    phases = [("asked", claim.created_at)]
    queued = next((event.at for event in claim.events if event.kind == "claim_queued"), None)
    ready = next((e.at for e in claim.events if e.kind == "build_succeeded"), None)
    phases += [("joined the queue", queued)] if queued is not None else []
    phases += [("decided", claim.completed_at)] if claim.completed_at is not None else []
    phases += [("handed over", ready)] if ready is not None else []
    return {
        "now": reading.at,
        "away": reading.away,
        "claim": claim,
        "phases": [(name, at, (at - claim.created_at).total_seconds()) for name, at in phases],
        "workflow": operations.pools.workflow_page(claim_workflow_id(claim.claim_id)),
    }


FRAGMENTS: Mapping[str, tuple[str, ...]] = {
    "pools": ("away", "loop", "alarms", "table", "builds"),
    "pool": ("away", "head", "waiting", "members", "failures", "decisions", "schedule", "size", "drills"),
    "workspace": ("away", "head", "builds", "log", "events"),
    "claim": ("away", "head", "events"),
}
"""The parts of each page that are sent again when they have changed, by the names of their templates."""
