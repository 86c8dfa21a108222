"""Bearer tokens, as operators see them."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from prebuilds.payloads import Payload
from prebuilds.vocabulary import Timestamp


class TokenRow(Payload):
    """A token without its secret."""

    id: UUID
    name: str
    scopes: list[str]
    """Each as `RIGHT` or `RIGHT:ORGANIZATION`."""
    user: str | None
    """The user whose claims the token makes; null for nobody's."""
    state: Literal["good", "revoked", "expired", "unconfirmed", "user_disabled"]
    """Every token but a `good` one is refused. `unconfirmed`: it is from before a restore of the database, and has not
    been confirmed since."""
    created_at: Timestamp
    created_by: str
    expires_at: Timestamp | None
    last_used_at: Timestamp | None
    """Written at most once a minute."""
    revoked_at: Timestamp | None
    revoked_by: str | None


class TokenCreated(Payload):
    """Result of making a token."""

    token: str = Field(repr=False)
    """The token with its secret. It is shown this once and stored nowhere."""
    id: UUID
    name: str
    scopes: list[str]
    user: str | None
    expires_at: Timestamp | None


class TokenRevoked(Payload):
    """Result of revoking a token."""

    name: str
    changed: bool
    """False when it was revoked already."""


class TokensConfirmed(Payload):
    """Result of confirming tokens after a restore of the database."""

    confirmed: list[str]
    """The names of the tokens that were `unconfirmed`."""


class TokenPage(Payload):
    """A page of the list of tokens, by name."""

    tokens: list[TokenRow]
    next: str | None
    """The cursor to send as `after` for the next page; None when this is the last page."""
