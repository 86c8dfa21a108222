"""The schema versions of this release, as their files in `migrations/versions/` describe them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from prebuilds.store.schema_steps import Step

if TYPE_CHECKING:  # every command checks the schema, few change it: Alembic takes 0.2 s of CPU to import
    from alembic.config import Config
    from alembic.script import ScriptDirectory


@dataclass(frozen=True, slots=True)
class Version:
    """A schema version. The first one has no steps: it is only ever made in an empty database."""

    revision: str
    expand: tuple[Step, ...]
    contract: tuple[Step, ...]


def config(connection: Connection | None = None) -> Config:
    """Make Alembic's configuration, for migrations on *connection*."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    made.attributes["connection"] = connection
    return made


def scripts() -> ScriptDirectory:
    """The migrations of this release, as Alembic knows them."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(config())


def known_revisions() -> set[str]:
    """The names of all versions that this release knows."""
    return {script.revision for script in scripts().walk_revisions()}


def versions_from(revision: str) -> list[Version]:
    """The version *revision* and all newer ones, the oldest first."""
    found = []
    for script in scripts().walk_revisions():  # the newest first
        expand, contract = (getattr(script.module, name, ()) for name in ("EXPAND", "CONTRACT"))
        found.append(Version(script.revision, expand, contract))
        if script.revision == revision:
            break
    return found[::-1]
