"""Results of `init`, `migrate` and `migrate --check`."""

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
    steps: list[str]
    """The steps that were carried out now, in order."""
    finished: bool
    """False while the release before may still run and start there: until `prebuilds migrate --finish`."""
    roles: list[str] = Field(default_factory=list)
    """The database roles that were granted their rights; empty when none were asked for."""
    warnings: list[str] = Field(default_factory=list)
    """What is wrong with those roles' rights, in words."""


class MigrationStep(Payload):
    """One step of a migration."""

    name: str
    kind: Literal["short", "index", "online", "backfill"]
    """`short`: locks tables for less than 100 ms. The others may take long, and nobody waits for them."""


class MigrationPlan(Payload):
    """What `prebuilds migrate` would do."""

    schema_before: str | None
    """The schema version of now; None of an empty database."""
    schema_now: str = Field(serialization_alias="schema")
    """The version that this release needs."""
    needed: bool
    """Whether `prebuilds migrate` has something to do."""
    steps: list[MigrationStep]
    """The steps that it would carry out, in order. Empty for an empty database, which gets everything at once."""
    finished: bool
    """As in `Migrated`."""


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
