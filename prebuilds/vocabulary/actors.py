"""Who asks for something, and what they may."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from prebuilds.vocabulary.scopes import EVERYTHING, Scope


@dataclass(frozen=True, slots=True)
class Actor:
    """The person, service or worker on whose behalf an operation runs.

    An actor has every right unless its maker says otherwise. Whoever reaches the database or the Temporal namespace is
    an operator already; a token's actor comes from `Gate.authenticate` and has the token's scopes.
    """

    name: str
    """Recorded with what the operation changes. Where it is an enabled user's, that user is a build's initiator."""
    scopes: frozenset[Scope] = EVERYTHING
    user: str | None = None
    """The user whose own claims and workspaces the actor may look after with the right `claim`; None: nobody's."""
    token_id: UUID | None = None
    """None: the actor did not come with a token."""


OPERATOR = Actor("operator")
"""The actor of a request that does not say who asks."""
