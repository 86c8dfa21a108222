"""Creates templates for tests, in one line each, through the real `apply`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.templates import ApplyResult, TemplateFile, apply

SOURCE = {"command": ["sleep", "infinity"]}

FIND_PRESET = text("""
    SELECT p.id, p.template_version_id AS version_id, p.template_id, t.organization_id
      FROM presets p JOIN templates t ON t.active_version_id = p.template_version_id AND t.deleted_at IS NULL
      JOIN organizations o ON o.id = t.organization_id
     WHERE o.name = :organization AND t.name = :template AND p.name = :preset
""")


@dataclass(frozen=True)
class MadePreset:
    """The ids of a preset and of what it belongs to."""

    id: UUID
    version_id: UUID
    template_id: UUID
    organization_id: UUID


def template_file(
    *presets: dict[str, Any],
    organization: str = "acme",
    template: str = "python",
    members: Sequence[str] = ("alice", "bob"),
    prebuilds: bool | None = None,
    limits: dict[str, Any] | None = None,
    **entry: Any,
) -> TemplateFile:
    """Return a template file with one template.

    Args:
        presets: The presets' entries, as in a template file.
        prebuilds: The organization's switch for prebuilds; None leaves it out.
        limits: The organization's limits; None leaves them out.
        entry: Further keys of the template's entry.
    """
    entry = {"provisioner": "process", "source": SOURCE} | entry
    return TemplateFile.model_validate(
        {
            "organizations": [
                {
                    "name": organization,
                    "prebuilds": prebuilds,
                    "limits": limits,
                    "members": list(members),
                    "templates": [{"name": template, "presets": list(presets), **entry}],
                }
            ]
        }
    )


async def apply_file(engine: AsyncEngine, *presets: dict[str, Any], **entry: Any) -> ApplyResult:
    """Apply a `template_file` with these arguments."""
    return await apply(engine, template_file(*presets, **entry), actor="tester")


async def find_preset(
    engine: AsyncEngine, organization: str = "acme", template: str = "python", preset: str = "small"
) -> MadePreset:
    """Find a preset of the template's active version."""
    path = {"organization": organization, "template": template, "preset": preset}
    async with engine.connect() as connection:
        return MadePreset(**(await connection.execute(FIND_PRESET, path)).one()._mapping)


async def make_preset(
    engine: AsyncEngine,
    name: str = "small",
    *,
    organization: str = "acme",
    template: str = "python",
    members: Sequence[str] = ("alice", "bob"),
    instances: int | None = 1,
    **policy: Any,
) -> MadePreset:
    """Apply a template with one preset, and return the preset.

    Args:
        members: The members of the organization.
        instances: The pool's desired size; None for a preset without a pool.
        policy: Further keys of the preset's entry.
    """
    preset = {"name": name, "instances": instances, **policy}
    await apply_file(engine, preset, organization=organization, template=template, members=members)
    return await find_preset(engine, organization, template, name)
