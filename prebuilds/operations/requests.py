"""Carries out `OperatorRequest`, by which a service uses the operations through Temporal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, get_args

from prebuilds.api import InvalidInput
from prebuilds.operations.drills import DrillOperations
from prebuilds.operations.facade import Operations
from prebuilds.operations.loop import NO_CAUSE, LoopOperations
from prebuilds.operations.people import PeopleOperations
from prebuilds.operations.workspaces import WorkspaceOperations
from prebuilds.payloads import DeploymentAction, DrillAction, OperatorRequest, Payload, PeopleAction
from prebuilds.planning.policy import DEPLOYMENT, Action, Resource, check
from prebuilds.views import LoopChange, WorkspaceChange
from prebuilds.vocabulary.actors import Actor

DRAIN_WAIT_S = 20.0
"""Seconds for which `start` waits for a draining loop, so that it answers before its caller's own timeout."""
CHANGED_AS = {"start": "started", "stop": "stopping"}
"""Action -> a second name under which its answer carries `changed`."""
POLICY: dict[str, Action] = {
    "status": Action.SEE_STATUS,
    "start": Action.START_LOOP,
    "stop": Action.STOP_LOOP,
    "pause": Action.PAUSE,
    "resume": Action.RESUME,
    "list_workspaces": Action.SEE_WORKSPACE,
    "show_workspace": Action.SEE_WORKSPACE,
    "release": Action.RELEASE_WORKSPACE,
    "abandon": Action.ABANDON_WORKSPACE,
    "release_claims": Action.RELEASE_WORKSPACE,
    "start_workspace": Action.START_WORKSPACE,
    "stop_workspace": Action.STOP_WORKSPACE,
    "retry": Action.RETRY_WORKSPACE,
    "set": Action.SET_WORKSPACE,
    "renew": Action.RENEW_LEASE,
    "transfer": Action.TRANSFER_WORKSPACE,
    "add_members": Action.CHANGE_MEMBERS,
    "remove_members": Action.CHANGE_MEMBERS,
    "disable_users": Action.SWITCH_USERS,
    "enable_users": Action.SWITCH_USERS,
    "run_drill": Action.RUN_DRILL,
    "list_drills": Action.SEE_TEMPLATES,
    "show_drill": Action.SEE_TEMPLATES,
}
"""Action of a request -> action of the policy."""


async def carry_out(
    operations: Operations,
    request: OperatorRequest,
    *,
    requested_at: datetime | None = None,
    actor: Actor | None = None,
) -> Any:
    """Carry out a request.

    Args:
        requested_at: Time of the request by Temporal's clock; None for now.
        actor: Who asks. None means the caller who started the workflow, under the name that the request gives. That
            actor has all rights, since Temporal decides who may start workflows in the namespace.
    Returns:
        The answer as JSON values.
    Raises:
        Forbidden: The actor may not do this in all organizations; nothing was changed.
        PrebuildsError: The errors of the operation that the request names.
    """
    actor = actor or Actor(request.by)
    # Only these two actions are checked against the request's organization; the others do not use that field.
    in_organization = request.action in ("add_members", "remove_members")
    check(actor, POLICY[request.action], Resource(request.organization) if in_organization else DEPLOYMENT)
    answer: Payload
    if request.action == "status":
        answer = await operations.status.page(request.after, request.limit)
    elif request.action in get_args(DeploymentAction):
        answer = await _change_loop(operations.loop, actor, request, requested_at)
    elif request.action in get_args(PeopleAction):
        answer = await _change_people(operations.people, actor, request)
    elif request.action in get_args(DrillAction):
        answer = await _drill(operations.drills, actor, request)
    else:
        answer = await _act_on_workspaces(operations.workspaces, actor, request)
    fields = answer.model_dump(mode="json")
    if isinstance(answer, LoopChange) and request.action in CHANGED_AS:
        fields[CHANGED_AS[request.action]] = answer.changed
    return fields


async def _change_loop(
    loop: LoopOperations, actor: Actor, request: OperatorRequest, requested_at: datetime | None
) -> LoopChange:
    match request.action:
        case "start":
            return await loop.start(actor, _duration(request.interval_seconds), within_s=DRAIN_WAIT_S)
        case "stop":
            return await loop.stop(actor, request.reason or NO_CAUSE, requested_at=requested_at)
        case "pause":
            return await loop.pause(actor, request.reason or "")
        case _:
            return await loop.resume(actor)


async def _change_people(people: PeopleOperations, actor: Actor, request: OperatorRequest) -> Payload:
    match request.action:
        case "disable_users":
            return await people.disable_users(actor, request.users)
        case "enable_users":
            return await people.enable_users(actor, request.users)
    if request.organization is None:
        raise InvalidInput.field("organization", "is required: the organization whose members change")
    if request.action == "add_members":
        return await people.add_members(actor, request.organization, request.users)
    return await people.remove_members(actor, request.organization, request.users)


async def _drill(drills: DrillOperations, actor: Actor, request: OperatorRequest) -> Payload:
    match request.action:
        case "run_drill":
            if request.target is None:
                raise InvalidInput.field("target", "is required: organization/template, or a preset's path")
            return await drills.run(actor, request.target)
        case "list_drills":
            return await drills.page(request.template, after=request.after, limit=request.limit)
    if request.drill is None:
        raise InvalidInput.field("drill", "is required: the drill's id")
    return await drills.show(request.drill)


async def _act_on_workspaces(workspaces: WorkspaceOperations, actor: Actor, request: OperatorRequest) -> Payload:
    if request.action == "release_claims":
        return await workspaces.release_claims(actor, request.claim_ids)
    if request.action == "list_workspaces":
        return await workspaces.page(
            owner=request.owner, preset=request.preset, after=request.after, limit=request.limit
        )
    if request.workspace is None:
        raise InvalidInput.field("workspace", "is required, as owner/name or id")
    if request.action == "show_workspace":
        return await workspaces.show(request.workspace)
    return await _change_workspace(workspaces, actor, request, request.workspace)


async def _change_workspace(
    workspaces: WorkspaceOperations, actor: Actor, request: OperatorRequest, workspace: str
) -> Payload:
    changes: dict[str, Callable[[Actor, str], Awaitable[WorkspaceChange]]] = {
        "start_workspace": workspaces.start,
        "stop_workspace": workspaces.stop,
        "retry": workspaces.retry,
    }
    match request.action:
        case "release":
            return await workspaces.release(actor, workspace)
        case "abandon":
            return await workspaces.abandon(actor, workspace)
        case "transfer":
            if request.to is None:
                raise InvalidInput.field("to", "is required: the new owner of the workspace")
            return await workspaces.transfer(actor, workspace, request.to, name=request.name)
        case "set":
            ttl, lease = (_duration(seconds) for seconds in (request.ttl_seconds, request.lease_seconds))
            return await workspaces.set(actor, workspace, ttl=ttl, autostart=request.autostart_schedule, lease=lease)
        case "renew":
            return await workspaces.renew(actor, workspace, lease=_duration(request.lease_seconds))
        case _:
            return await changes[request.action](actor, workspace)


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
