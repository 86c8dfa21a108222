"""Results of `init` and `migrate`."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from prebuilds.payloads import Payload


class Migrated(Payload):
    """The schema's version before and after a migration."""

    schema_before: str | None
    """The version before; None when the database was empty."""
    schema_now: str = Field(serialization_alias="schema")  # pydantic has a `schema` of its own


class Binding(Payload):
    """The binding of a database and a Temporal namespace."""

    deployment_id: UUID
    namespace: str
    fit: Literal["bound", "database_alone", "unknown"]
    """`bound`: each records the other. `database_alone`: the credentials cannot mark the namespace, so another
    deployment is not refused in it. `unknown`: nothing was bound, since the credentials cannot describe the
    namespace."""
    changed: bool
    """Whether the binding was made or changed now."""
    replaced: list[str]
    """The earlier bindings of both, in words."""


class Initialized(Migrated):
    """Result of `prebuilds init`."""

    search_attributes: str
    """`registered`, or the reason why they are not."""
    binding: Binding | None
    """The binding; None when Temporal cannot be reached. Then the search attributes are missing, too."""
