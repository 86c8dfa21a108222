"""Finds what a reference names, and whose it is, so that the policy can be asked before anything is done to it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from prebuilds.api import PrebuildsError
from prebuilds.payloads.not_found import no_preset, no_template, no_workspace
from prebuilds.planning.policy import Resource
from prebuilds.store.presets import find_presets_ever
from prebuilds.store.templates import find_template
from prebuilds.store.workspaces import resolve_workspace

WORKSPACE = text("""
    SELECT o.name AS organization, u.name AS owner
      FROM workspaces w JOIN users u ON u.id = w.owner_id JOIN organizations o ON o.id = w.organization_id
     WHERE w.id = :id
""")


@dataclass(frozen=True, slots=True)
class FoundResource:
    """What a reference names now. Whoever acts on it uses the id: a path may name something else a moment later."""

    id: UUID
    resource: Resource
    unknown: PrebuildsError
    """The error for a reference that names nothing, or a resource that the caller may not see."""


async def find_workspace_resource(connection: AsyncConnection, reference: str) -> FoundResource:
    """Find a workspace by its id, also a deleted one, or a live one by `owner/name`.

    Raises:
        InvalidInput: *reference* is neither an id nor a path.
        WorkspaceNotFound: There is no such workspace.
    """
    workspace_id = await resolve_workspace(connection, reference)
    return FoundResource(workspace_id, await workspace_resource(connection, workspace_id), no_workspace(reference))


async def workspace_resource(connection: AsyncConnection, workspace_id: UUID) -> Resource:
    """Read whose a workspace is.

    Raises:
        WorkspaceNotFound: No workspace has this id.
    """
    row = (await connection.execute(WORKSPACE, {"id": workspace_id})).one_or_none()
    if row is None:
        raise no_workspace(str(workspace_id))
    return Resource(row.organization, (row.owner,))


async def find_preset_resource(connection: AsyncConnection, reference: str) -> FoundResource:
    """Find a preset, of a deleted template too, by its id or path. A path means the preset that counts now.

    Raises:
        InvalidInput: *reference* is neither an id nor a path.
        PresetNotFound: There never was such a preset.
    """
    found = (await find_presets_ever(connection, reference))[0]
    return FoundResource(found.id, Resource(found.path.partition("/")[0]), no_preset(reference))


async def find_template_resource(connection: AsyncConnection, reference: str) -> FoundResource:
    """Find a template, a deleted one too, by its id or path. A path means the live template if there is one.

    Raises:
        InvalidInput: *reference* is neither an id nor a path.
        TemplateNotFound: There never was such a template.
    """
    found = await find_template(connection, reference)
    return FoundResource(found.id, Resource(found.path.partition("/")[0]), no_template(reference))
