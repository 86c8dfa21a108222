"""Scopes: what a token may do, and where. `read:acme` is the right to read in the organization acme."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from prebuilds.vocabulary import check_name


class Right(StrEnum):
    """What a scope allows."""

    CLAIM = "claim"
    """Claim for oneself, and look after one's own claims and workspaces."""
    CLAIM_OTHERS = "claim:others"
    """Claim for anybody, and look after anybody's claims and workspaces."""
    READ = "read"
    """See everything."""
    OPERATE = "operate"
    """Steer what exists: pools, jobs, anybody's workspaces, the loop."""
    ADMIN = "admin"
    """Everything: also say what runs, who may claim, and which tokens there are."""


SCOPE_RULE = f"must be one of {', '.join(Right)}, alone or followed by :ORGANIZATION, such as read:acme"


@dataclass(frozen=True, slots=True)
class Scope:
    """A right in one organization, or in the whole deployment."""

    right: Right
    organization: str | None = None
    """None: in every organization, and in what belongs to none, such as the loop."""

    def __str__(self) -> str:
        """As people write it; `parse_scope` reads it back."""
        return self.right if self.organization is None else f"{self.right}:{self.organization}"


EVERYTHING = frozenset({Scope(Right.ADMIN)})
"""Every right, everywhere."""


def parse_scope(text: str) -> Scope:
    """Read a scope as people write it.

    `claim:others` is always the right of this name. So an organization that is called `others` cannot be named with
    `claim`; `claim:others:others` can.

    Raises:
        ValueError: It is none.
    """
    for right in sorted(Right, key=len, reverse=True):
        if text == right:
            return Scope(right)
        if text.startswith(f"{right}:"):
            try:
                return Scope(right, check_name(text.removeprefix(f"{right}:")))
            except ValueError as error:
                raise ValueError(f"{SCOPE_RULE}; an organization's name {error}") from error
    raise ValueError(SCOPE_RULE)
