"""What a reference names and whose it is. A caller that is held to the policy asks this before it acts."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.store import resources
from prebuilds.store.resources import FoundResource


@dataclass(frozen=True, slots=True)
class ResourceOperations:
    """Looks resources up. Each method returns the resource and its id, by which the caller then acts: what a path names
    may be another thing a moment later."""

    engine: AsyncEngine

    async def workspace(self, reference: str) -> FoundResource:
        """Find a workspace by its id, also a deleted one, or a live one by `owner/name`.

        Raises:
            InvalidInput: *reference* is neither an id nor a path.
            WorkspaceNotFound: There is no such workspace.
        """
        async with self.engine.connect() as connection:
            return await resources.find_workspace_resource(connection, reference)

    async def preset(self, reference: str) -> FoundResource:
        """Find a preset by its id or path, also one of a deleted template.

        Raises:
            InvalidInput: *reference* is neither an id nor a path.
            PresetNotFound: There never was such a preset.
        """
        async with self.engine.connect() as connection:
            return await resources.find_preset_resource(connection, reference)

    async def template(self, reference: str) -> FoundResource:
        """Find a template by its id or path, also a deleted one.

        Raises:
            InvalidInput: *reference* is neither an id nor a path.
            TemplateNotFound: There never was such a template.
        """
        async with self.engine.connect() as connection:
            return await resources.find_template_resource(connection, reference)
