"""The operations as one caller reaches them: whatever a route is about to do, it asks the policy here first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from prebuilds.api import PrebuildsError
from prebuilds.http.authentication import Caller, Gate, Given, check_found
from prebuilds.http.service import Service, service_of
from prebuilds.operations.facade import Operations
from prebuilds.planning.policy import DEPLOYMENT, Action, Reach, Resource, reach_of
from prebuilds.vocabulary.actors import Actor


@dataclass(frozen=True, slots=True)
class Guard:
    """One request's caller, and what it may do.

    `workspace`, `preset` and `template` return the id of what a reference names, once the policy allows the action. The
    route acts by that id. A workspace that gets another owner between the two is treated as its caller's a moment ago.
    """

    actor: Actor
    service: Service
    gate: Gate
    token: str | None = field(repr=False)
    """The token as presented. A stream checks it again now and then."""

    @property
    def operations(self) -> Operations:
        return self.service.operations

    def check(self, action: Action, resource: Resource = DEPLOYMENT) -> None:
        """Refuse what the policy denies.

        Raises:
            Forbidden: Names the scope that would be enough.
        """
        self.gate.check(self.actor, action, resource)

    def check_found(self, action: Action, resource: Resource, sees: Action, unknown: PrebuildsError) -> None:
        """Call `prebuilds.http.authentication.check_found` for the caller."""
        check_found(self.gate, self.actor, action, resource, sees, unknown)

    def reach(self, action: Action) -> Reach:
        """Return the resources for which the caller may do an action.

        Raises:
            Forbidden: There are none. It names the scope that would be enough for all.
        """
        reach = reach_of(self.actor, action)
        if reach.nothing:
            self.check(action)
        return reach

    async def workspace(self, reference: str, action: Action, unknown: PrebuildsError | None = None) -> str:
        """Return a workspace's id.

        Args:
            unknown: As of `check_found`; None for a workspace that is not there.
        Raises:
            Forbidden: The policy denies the action, everywhere or for this workspace, which the caller may see.
            InvalidInput, WorkspaceNotFound: The reference names nothing that the caller may see.
        """
        self.reach(action)  # an actor who may do it nowhere must not learn what exists
        found = await self.operations.resources.workspace(reference)
        self.check_found(action, found.resource, Action.SEE_WORKSPACE, unknown or found.unknown)
        return str(found.id)

    async def preset(self, reference: str, action: Action) -> str:
        """Return a preset's id. Raises as `workspace` does, or PresetNotFound."""
        self.reach(action)
        found = await self.operations.resources.preset(reference)
        self.check_found(action, found.resource, Action.SEE_AVAILABILITY, found.unknown)
        return str(found.id)

    async def template(self, reference: str, action: Action) -> str:
        """Return a template's id. Raises as `workspace` does, or TemplateNotFound."""
        self.reach(action)
        found = await self.operations.resources.template(reference)
        self.check_found(action, found.resource, Action.SEE_AVAILABILITY, found.unknown)
        return str(found.id)


async def _guard(request: Request, actor: Caller, given: Given) -> Guard:
    token = None if given is None else given.credentials
    return Guard(actor, service_of(request), request.app.state.entrance.gate, token)


Guarded = Annotated[Guard, Depends(_guard)]
"""The operations, for a caller with a token."""
