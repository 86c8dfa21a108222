"""Results of `init` and `migrate`."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from prebuilds.payloads import Payload


class Migrated(Payload):
    """The schema's version before and after a migration."""

    schema_before: str | None
    """None: the database was empty."""
    schema_now: str = Field(serialization_alias="schema")  # pydantic has a `schema` of its own


class Binding(Payload):
    """A database and a Temporal namespace, as they are bound to each other now."""

    deployment_id: UUID
    namespace: str
    fit: Literal["bound", "database_alone", "unknown"]
    """`database_alone`: these credentials cannot mark the namespace, so that others are not refused in it. `unknown`:
    nothing was bound, since these credentials may not describe the namespace."""
    changed: bool
    replaced: list[str]
    """What either of them belonged to before, in words."""


class Initialized(Migrated):
    """What `prebuilds init` did."""

    search_attributes: str
    """`registered`, or why not."""
    binding: Binding | None
    """None: Temporal cannot be reached, so that this and the search attributes are still to be done."""
