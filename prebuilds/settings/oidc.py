"""An identity provider (OpenID Connect): where it is, and which scopes its groups have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from prebuilds.vocabulary.scopes import Scope, parse_scope

EVERYBODY = "*"
"""The name, in place of a group's, for everybody whom the identity provider knows."""
FORM = "write GROUP=SCOPE SCOPE; GROUP=SCOPE, such as: *=claim; prebuilds-operators=operate read; owners=admin"


@dataclass(frozen=True, slots=True)
class GroupScopes:
    """The scopes of each group."""

    by_group: Mapping[str, frozenset[Scope]]

    def scopes_of(self, groups: Iterable[str]) -> frozenset[Scope]:
        """Return all scopes of somebody in these groups."""
        found = [self.by_group.get(group, frozenset()) for group in (EVERYBODY, *groups)]
        return frozenset().union(*found)


def parse_group_scopes(text: str) -> GroupScopes:
    """Read the scopes of groups as people write them.

    Raises:
        ValueError: They cannot be read; the message says what to write.
    """
    by_group: dict[str, frozenset[Scope]] = {}
    for entry in filter(None, map(str.strip, text.split(";"))):
        group, equals, scopes = entry.rpartition("=")
        group = group.strip()
        if not equals or not group or not scopes.split():
            raise ValueError(f"{entry} is no group with its scopes; {FORM}")
        if group in by_group:
            raise ValueError(f"{group} is named twice; {FORM}")
        try:
            by_group[group] = frozenset(map(parse_scope, scopes.split()))
        except ValueError as error:
            raise ValueError(f"a scope of {group} {error}") from error
    return GroupScopes(by_group)


@dataclass(frozen=True, slots=True)
class OidcRules:
    """What the deployment expects of the provider's tokens."""

    issuer: str
    """As it stands in the tokens; its keys are found below this address."""
    audience: str
    user_claim: str
    """The claim that is the user's name. `email` counts only where the provider has verified it."""
    groups_claim: str
    groups: GroupScopes


def check_address(address: str) -> str:
    """Return *address* if keys may be read from there: over TLS, or from this machine.

    Raises:
        ValueError: They may not.
    """
    parts = urlsplit(address)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")):
        return address
    raise ValueError("must begin with https://")
