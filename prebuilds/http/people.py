"""Members, users and limits over HTTP: who may claim and how much, and what is left when somebody may no longer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query
from pydantic import Field

from prebuilds.http import upkeep_examples
from prebuilds.http.documents import DECODED, PageQuery, RequestFields, answers, in_path
from prebuilds.http.guard import Guarded
from prebuilds.planning.policy import Action, Resource
from prebuilds.views import LeavingResult, LimitPage, MemberPage, MembersResult, UserPage
from prebuilds.vocabulary import Text

router = APIRouter(prefix="/v1", tags=["people"])

Organization = Annotated[str, in_path("An organization's name", "acme"), DECODED]
PEOPLE = {"users": ["alice", "bob"]}


class PeopleBody(RequestFields):
    """Who."""

    users: list[Text] = Field(min_length=1, max_length=1000, description="Their names; case does not matter")


class UserQuery(PageQuery):
    """Which users."""

    disabled: bool = Field(False, description="Only disabled users")


Named = Annotated[PeopleBody, Body(examples=[PEOPLE])]


@router.get(
    "/limits",
    summary="List the limits of organizations",
    operation_id="list_limits",
    responses=answers({"limits": [upkeep_examples.LIMIT], "next": None}),
)
async def list_limits(guard: Guarded, query: Annotated[PageQuery, Query()]) -> LimitPage:
    """With what is used of each; those of the organizations that the token may see, by organization and name."""
    reach = guard.reach(Action.SEE_LIMITS)
    page = await guard.operations.limits.list(reach=reach, limit=query.limit, after=query.after)
    return LimitPage(limits=page.rows, next=page.next)


@router.get(
    "/organizations/{organization}/members",
    summary="List an organization's members",
    operation_id="list_members",
    responses=answers({"members": [upkeep_examples.MEMBER], "next": None}, 404),
)
async def list_members(guard: Guarded, organization: Organization, query: Annotated[PageQuery, Query()]) -> MemberPage:
    """Who may claim in it, by name."""
    guard.check(Action.SEE_MEMBERS, Resource(organization))
    page = await guard.operations.people.list_members(organization, limit=query.limit, after=query.after)
    return MemberPage(members=page.rows, next=page.next)


@router.post(
    "/organizations/{organization}/members:add",
    summary="Make people members of an organization",
    operation_id="add_members",
    responses=answers({"organization": "acme", "added": ["bob"]}, 404, 413),
)
async def add_members(guard: Guarded, organization: Organization, body: Named) -> MembersResult:
    """Unknown people are created; removed members come back."""
    guard.check(Action.CHANGE_MEMBERS, Resource(organization))
    return await guard.operations.people.add_members(guard.actor, organization, body.users)


@router.post(
    "/organizations/{organization}/members:remove",
    summary="End people's right to claim in an organization",
    operation_id="remove_members",
    responses=answers(upkeep_examples.LEAVING, 404, 413),
)
async def remove_members(guard: Guarded, organization: Organization, body: Named) -> LeavingResult:
    """Their workspaces stay until somebody transfers or releases them; their waiting claims are refused."""
    guard.check(Action.CHANGE_MEMBERS, Resource(organization))
    return await guard.operations.people.remove_members(guard.actor, organization, body.users)


@router.get(
    "/users",
    summary="List users",
    operation_id="list_users",
    responses=answers({"users": [upkeep_examples.USER], "next": None}),
)
async def list_users(guard: Guarded, query: Annotated[UserQuery, Query()]) -> UserPage:
    """All known people and services, by name."""
    guard.check(Action.SEE_USERS)
    page = await guard.operations.people.list_users(disabled=query.disabled, limit=query.limit, after=query.after)
    return UserPage(users=page.rows, next=page.next)


@router.post(
    "/users:disable",
    summary="End people's right to claim anywhere",
    operation_id="disable_users",
    responses=answers(upkeep_examples.LEAVING | {"organization": None}, 413),
)
async def disable_users(guard: Guarded, body: Named) -> LeavingResult:
    """For anybody, in all organizations. Their workspaces stay; their waiting claims are refused."""
    guard.check(Action.SWITCH_USERS)
    return await guard.operations.people.disable_users(guard.actor, body.users)


@router.post(
    "/users:enable",
    summary="Let disabled people claim again",
    operation_id="enable_users",
    responses=answers(upkeep_examples.LEAVING | {"organization": None}, 413),
)
async def enable_users(guard: Guarded, body: Named) -> LeavingResult:
    """Nothing changes for those who are enabled."""
    guard.check(Action.SWITCH_USERS)
    return await guard.operations.people.enable_users(guard.actor, body.users)
