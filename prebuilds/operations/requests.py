"""What a service asks for through Temporal: each action of `OperatorRequest`, carried out by an operation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, get_args

from prebuilds.api import InvalidInput
from prebuilds.operations.facade import Operations
from prebuilds.operations.loop import NO_CAUSE, LoopOperations
from prebuilds.operations.people import PeopleOperations
from prebuilds.operations.workspaces import WorkspaceOperations
from prebuilds.payloads import DeploymentAction, OperatorRequest, Payload, PeopleAction
from prebuilds.views import LoopChange, WorkspaceChange
from prebuilds.vocabulary.actors import Actor

DRAIN_WAIT_S = 20.0
"""Seconds that a `start` waits for a loop that drains: it is answered while its caller still waits."""
CHANGED_AS = {"start": "started", "stop": "stopping"}
"""What answers to these actions call `changed`, beside that name."""


async def carry_out(operations: Operations, request: OperatorRequest, *, asked_at: datetime | None = None) -> Any:
    """Carry out a request.

    Args:
        asked_at: When the request was made, by Temporal's clock; None for now.
    Returns:
        What crosses back as JSON.
    """
    answer: Payload
    if request.action == "status":
        answer = await operations.status.page(request.after, request.limit)
    elif request.action in get_args(DeploymentAction):
        answer = await _of_loop(operations.loop, request, asked_at)
    elif request.action in get_args(PeopleAction):
        answer = await _of_people(operations.people, request)
    else:
        answer = await _of_workspaces(operations.workspaces, request)
    told = answer.model_dump(mode="json")
    if isinstance(answer, LoopChange) and request.action in CHANGED_AS:
        told[CHANGED_AS[request.action]] = answer.changed
    return told


async def _of_loop(loop: LoopOperations, request: OperatorRequest, asked_at: datetime | None) -> LoopChange:
    actor = Actor(request.by)
    match request.action:
        case "start":
            seconds = request.interval_seconds
            interval = None if seconds is None else timedelta(seconds=seconds)
            return await loop.start(actor, interval, within_s=DRAIN_WAIT_S)
        case "stop":
            return await loop.stop(actor, request.reason or NO_CAUSE, asked_at=asked_at)
        case "pause":
            return await loop.pause(actor, request.reason or "")
        case _:
            return await loop.resume(actor)


async def _of_people(people: PeopleOperations, request: OperatorRequest) -> Payload:
    actor = Actor(request.by)
    match request.action:
        case "disable_users":
            return await people.disable_users(actor, request.users)
        case "enable_users":
            return await people.enable_users(actor, request.users)
    if request.organization is None:
        raise InvalidInput.field("organization", "is required: whose members they are")
    if request.action == "add_members":
        return await people.add_members(actor, request.organization, request.users)
    return await people.remove_members(actor, request.organization, request.users)


async def _of_workspaces(workspaces: WorkspaceOperations, request: OperatorRequest) -> Payload:
    if request.action == "release_claims":
        return await workspaces.release_claims(Actor(request.by), request.claim_ids)
    if request.action == "list_workspaces":
        return await workspaces.page(
            owner=request.owner, preset=request.preset, after=request.after, limit=request.limit
        )
    if request.workspace is None:
        raise InvalidInput.field("workspace", "is required, as owner/name or id")
    if request.action == "show_workspace":
        return await workspaces.show(request.workspace)
    return await _of_one_workspace(workspaces, request, request.workspace)


async def _of_one_workspace(workspaces: WorkspaceOperations, request: OperatorRequest, workspace: str) -> Payload:
    actor = Actor(request.by)
    changes: dict[str, Callable[[Actor, str], Awaitable[WorkspaceChange]]] = {
        "start_workspace": workspaces.start,
        "stop_workspace": workspaces.stop,
        "retry": workspaces.retry,
    }
    match request.action:
        case "release":
            return await workspaces.release(actor, workspace)
        case "transfer":
            if request.to is None:
                raise InvalidInput.field("to", "is required: who gets the workspace")
            return await workspaces.transfer(actor, workspace, request.to, name=request.name)
        case "set":
            seconds = request.ttl_seconds
            ttl = None if seconds is None else timedelta(seconds=seconds)
            return await workspaces.set(actor, workspace, ttl=ttl, autostart=request.autostart_schedule)
        case _:
            return await changes[request.action](actor, workspace)
