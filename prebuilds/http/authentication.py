"""Who asks: a bearer token becomes an actor, which is counted, and held to the policy by the routes."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param

from prebuilds.api import Forbidden, PrebuildsError
from prebuilds.operations.rate_limits import RateLimits
from prebuilds.planning.policy import DEPLOYMENT, Action, Resource, may
from prebuilds.planning.rate_limit import CLAIMS, REQUESTS, Limit, headers, refusal
from prebuilds.vocabulary.actors import Actor

bearer = HTTPBearer(auto_error=False, description="A token, as `prebuilds tokens create` makes one")


class Gate(Protocol):
    """What stands in front of every endpoint but health and the documentation: `prebuilds.operations.access.Gate`."""

    async def authenticate(self, token: str | None) -> Actor:
        """Return the token's actor.

        Args:
            token: None when the request had none.
        Raises:
            Unauthenticated: The token is missing or not good.
        """
        ...

    def check(self, actor: Actor, action: Action, resource: Resource = DEPLOYMENT) -> None:
        """Refuse what the policy denies.

        Raises:
            Forbidden: Names the scope that would be enough.
        """
        ...


@dataclass(frozen=True, slots=True)
class Entrance:
    """The gate of one server, and the rate limits of its tokens."""

    gate: Gate
    limits: RateLimits = field(default_factory=RateLimits)

    async def admit(self, token: str | None, limit: Limit, state: MutableMapping[str, Any]) -> Actor:
        """Return the actor of a request, which is counted.

        Args:
            token: None when the request had none.
            state: The request's; its `headers` go into the answer.
        Raises:
            Unauthenticated: The token is missing or not good.
            RateLimited: The token asks too often.
        """
        actor = await self.gate.authenticate(token)
        taken = self.limits.take(actor, limit)
        state["headers"] = headers(taken)
        if not taken.allowed:
            raise refusal(taken)
        return actor


Given = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


def token_of(authorization: str | None) -> str | None:
    """Return the bearer token of an `Authorization` header; None when it has none."""
    scheme, token = get_authorization_scheme_param(authorization)
    return token if scheme.lower() == "bearer" else None


async def admit_request(request: Request, limit: Limit) -> Actor:
    """Admit a request as `Entrance.admit` does. A request with a body was admitted before that was read."""
    admitted: Actor | None = request.scope["state"].get("actor")
    if admitted is not None:
        return admitted
    entrance: Entrance = request.app.state.entrance
    return await entrance.admit(token_of(request.headers.get("authorization")), limit, request.scope["state"])


async def _claimant(request: Request, _: Given) -> Actor:
    return await admit_request(request, CLAIMS)


async def _caller(request: Request, _: Given) -> Actor:
    return await admit_request(request, REQUESTS)


Claimant = Annotated[Actor, Depends(_claimant)]
"""The actor of a claim, counted apart from other requests."""
Caller = Annotated[Actor, Depends(_caller)]
"""The actor of any other request."""


def check_allowed(request: Request, actor: Actor, action: Action, resource: Resource = DEPLOYMENT) -> None:
    """Refuse what the policy denies.

    Raises:
        Forbidden: Names the scope that would be enough.
    """
    entrance: Entrance = request.app.state.entrance
    entrance.gate.check(actor, action, resource)


def check_found(
    gate: Gate, actor: Actor, action: Action, resource: Resource, sees: Action, unknown: PrebuildsError
) -> None:
    """Raise unless the policy allows an action on a resource that was looked up. An actor that may not see the resource
    does not learn that it exists.

    Args:
        sees: The action of seeing the resource.
        unknown: The error for a resource that does not exist.
    Raises:
        Forbidden: The actor may see it, but not do *action*. It names the scope that would be enough.
        PrebuildsError: *unknown*.
    """
    try:
        gate.check(actor, action, resource)
    except Forbidden:
        if may(actor, sees, resource):
            raise
        raise unknown from None
