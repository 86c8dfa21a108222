"""Who asks for something."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """The person, service or worker on whose behalf an operation runs."""

    name: str
    """Recorded with what the operation changes. Where it is an enabled user's, that user is a build's initiator."""


OPERATOR = Actor("operator")
"""The actor of a request that does not say who asks."""
