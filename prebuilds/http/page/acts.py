"""The acts that the page offers: what each needs, what it says before it is done, and the operation behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prebuilds.http.page.signing_in import Viewer
from prebuilds.operations.facade import Operations
from prebuilds.planning.policy import Action
from prebuilds.views import JobFilter, LoopStatus, WorkspaceDetails
from prebuilds.views.pools import PoolRow
from prebuilds.vocabulary import PREBUILDS_USER
from prebuilds.vocabulary.actors import Actor

Target = Literal["deployment", "preset", "workspace"]
Do = Callable[[Operations, Actor, str, str], Awaitable[Any]]
"""Called with the operations, the actor, the target (a preset's path, or a workspace's id), and the cause."""


@dataclass(frozen=True, slots=True)
class Act:
    """One act."""

    title: str
    """On the link that leads to it, and on the button that does it."""
    of: Target
    action: Action
    says: str
    """What the action does, for the person about to confirm it."""
    done: str
    """The message after the action."""
    do: Do
    cause: str | None = None
    """The label of the field for the cause; None when nothing would keep one."""
    grave: bool = False
    """Whether it destroys something or stops it, so that its button stands out."""


def _template(preset: str) -> str:
    return preset.rpartition("/")[0]


ACTS: Mapping[str, Act] = {
    "pause": Act(
        "Pause",
        "deployment",
        Action.PAUSE,
        "Passes create and delete nothing until somebody resumes. Claims, and the builds that they cause, go on.",
        "The pools are paused.",
        lambda on, actor, _, cause: on.loop.pause(actor, cause),
        cause="Why, for whoever finds the pools paused",
        grave=True,
    ),
    "resume": Act(
        "Resume",
        "deployment",
        Action.RESUME,
        "Passes create and delete again, and begin at once.",
        "The pools are resumed.",
        lambda on, actor, *_: on.loop.resume(actor),
    ),
    "reconcile": Act(
        "Reconcile",
        "deployment",
        Action.RECONCILE,
        "The loop makes a pass over all pools now, instead of at its next interval.",
        "A pass is on its way.",
        lambda on, *_: on.loop.reconcile(),
    ),
    "start": Act(
        "Start the loop",
        "deployment",
        Action.START_LOOP,
        "The loop runs passes again, the first one at once.",
        "The loop is started.",
        lambda on, actor, *_: on.loop.start(actor, within_s=5),
    ),
    "stop": Act(
        "Stop the loop",
        "deployment",
        Action.STOP_LOOP,
        "The loop ends its pass and stops until somebody starts it. Pools are not refilled; claims go on.",
        "The loop has been told to stop.",
        lambda on, actor, _, cause: on.loop.stop(actor, cause),
        cause="The cause, for logs and for whoever finds it stopped",
        grave=True,
    ),
    "cancel-builds": Act(
        "Cancel pending pool builds",
        "deployment",
        Action.CANCEL_JOBS,
        "All builds of the pools that no worker has begun are canceled. Builds that people have asked for go on. Pause"
        " first, or the next pass records new ones.",
        "The pools' pending builds are canceled.",
        lambda on, actor, *_: on.jobs.cancel(actor, JobFilter(initiator=PREBUILDS_USER)),
        grave=True,
    ),
    "reconcile-preset": Act(
        "Reconcile",
        "preset",
        Action.RECONCILE,
        "The loop makes a pass over this pool now, instead of at its next interval.",
        "A pass is on its way.",
        lambda on, _, preset, __: on.loop.reconcile(preset),
    ),
    "invalidate": Act(
        "Invalidate",
        "preset",
        Action.INVALIDATE_PRESET,
        "Nobody can claim the prebuilds that exist now: all of them are deleted and made anew. Claims find the pool"
        " empty until the first new one is ready.",
        "The pool's prebuilds are being replaced.",
        lambda on, actor, preset, __: on.presets.invalidate(actor, preset=preset),
        grave=True,
    ),
    "resume-creation": Act(
        "Resume creation",
        "preset",
        Action.LIFT_HOLDS,
        "The failures so far are forgotten, and the next pass creates prebuilds again. Repair what failed first.",
        "Creation is resumed.",
        lambda on, actor, preset, __: on.presets.lift_holds(actor, preset),
    ),
    "cancel-template-builds": Act(
        "Cancel pending builds",
        "preset",
        Action.CANCEL_JOBS,
        "The builds of this template's pools that no worker has begun are canceled. Builds that people have asked for"
        " go on.",
        "The pools' pending builds are canceled.",
        lambda on, actor, preset, __: on.jobs.cancel(
            actor, JobFilter(initiator=PREBUILDS_USER, template=_template(preset))
        ),
        grave=True,
    ),
    "retry": Act(
        "Retry",
        "workspace",
        Action.RETRY_WORKSPACE,
        "The build that has failed is done again, with the same inputs.",
        "The build is repeated.",
        lambda on, actor, workspace, __: on.workspaces.retry(actor, workspace),
    ),
    "renew": Act(
        "Renew the lease",
        "workspace",
        Action.RENEW_LEASE,
        "The lease lasts its whole time from now. When it ends, the workspace is deleted, unless it is renewed again.",
        "The lease is renewed.",
        lambda on, actor, workspace, __: on.workspaces.renew(actor, workspace),
    ),
    "release": Act(
        "Release",
        "workspace",
        Action.RELEASE_WORKSPACE,
        "The workspace and everything in it is deleted. That cannot be undone.",
        "The workspace is being deleted.",
        lambda on, actor, workspace, __: on.workspaces.release(actor, workspace),
        grave=True,
    ),
}
"""The acts by the last part of their address."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A link to an act."""

    name: str
    title: str
    grave: bool


def _offers(viewer: Viewer, names: list[str], organization: str | None, people: tuple[str, ...] = ()) -> list[Offer]:
    return [
        Offer(name, act.title, act.grave)
        for name in names
        if (act := ACTS[name]) and viewer.may(act.action, organization, people)
    ]


def loop_offers(viewer: Viewer, loop: LoopStatus) -> list[Offer]:
    """The acts on the whole deployment that make sense now and that the viewer may do."""
    runs = loop.state == "running"
    names = ["resume" if loop.paused else "pause"]
    names += ["reconcile", "stop"] if runs else ["start"]
    return _offers(viewer, names, None)


def preset_offers(viewer: Viewer, pool: PoolRow | None, organization: str) -> list[Offer]:
    """The acts on one preset that make sense now and that the viewer may do."""
    if pool is None or not pool.active:
        return []
    lifted = ["resume-creation"] if pool.held in ("hard_limited", "validation_failed", "backoff") else []
    pending = ["cancel-template-builds"] if pool.pending_builds else []
    return _offers(viewer, [*lifted, "reconcile-preset", "invalidate", *pending], organization)


def workspace_offers(viewer: Viewer, workspace: WorkspaceDetails) -> list[Offer]:
    """The acts on one workspace that make sense now and that the viewer may do."""
    # The pool replaces a prebuild that has failed; only its deletion is retried.
    own = workspace.owner != PREBUILDS_USER or workspace.builds[-1].transition == "delete"
    names = ["retry"] if workspace.status in ("failed", "canceled") and own else []
    lives = workspace.builds[-1].transition != "delete"
    names += ["renew"] if lives and workspace.lease_seconds is not None else []
    names += [] if workspace.status in ("deleting", "deleted") else ["release"]
    return _offers(viewer, names, workspace.organization, (workspace.owner,))


def build_offers(viewer: Viewer, pending: int) -> list[Offer]:
    """The acts on all pending builds."""
    return _offers(viewer, ["cancel-builds"] if pending else [], None)
