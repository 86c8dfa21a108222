"""Errors for references that name nothing. A caller that may not see a resource gets the same error, so each is made in
one place."""

from __future__ import annotations

from uuid import UUID

from prebuilds.api import DrillNotFound, PrebuildsError, PresetNotFound, TemplateNotFound, WorkspaceNotFound
from prebuilds.payloads.paths import parse_workspace_path


def no_template(reference: str) -> PrebuildsError:
    """Return the error for a template that never existed."""
    return TemplateNotFound(
        f"no template {reference}", {"template": "does not exist"}, remedy="see `prebuilds templates list`"
    )


def no_preset(reference: str) -> PrebuildsError:
    """Return the error for a preset that never existed."""
    return PresetNotFound(f"no preset {reference}", {"preset": "does not exist"}, remedy="see `prebuilds presets list`")


def no_workspace(reference: str) -> PrebuildsError:
    """Return the error for a workspace, given by `owner/name` or its id, that does not exist.

    Raises:
        InvalidInput: *reference* is neither.
    """
    try:
        found = f"no workspace has the id {UUID(reference)}"
    except ValueError:
        owner, name = parse_workspace_path(reference)
        found = f"{owner} has no live workspace named {name}"
    return WorkspaceNotFound(found, remedy="see `prebuilds workspaces list`")


def no_build(build_id: UUID) -> PrebuildsError:
    """Return the error for a build that does not exist."""
    return WorkspaceNotFound(
        f"no build has the id {build_id}",
        {"build_id": str(build_id)},
        remedy="correct it as `prebuilds jobs list` has it; builds of workspaces released long ago are removed",
    )


def no_log(reference: str) -> PrebuildsError:
    """Return the error for a build or workspace, given by an id or `owner/name`, that has no log.

    Raises:
        InvalidInput: *reference* is neither.
    """
    try:
        id = UUID(reference)
    except ValueError:
        return no_workspace(reference)
    return WorkspaceNotFound(f"no build and no workspace has the id {id}", {"id": str(id)})


def no_drill(drill_id: UUID) -> PrebuildsError:
    """Return the error for a drill that does not exist."""
    return DrillNotFound(f"no drill has the id {drill_id}", {"drill": str(drill_id)})
