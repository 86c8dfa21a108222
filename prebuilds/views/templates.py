"""Templates, and what commands on them return."""

from __future__ import annotations

from uuid import UUID

from prebuilds.payloads import Payload


class TemplateRow(Payload):
    """A template and its active version."""

    id: UUID
    organization: str
    template: str
    provisioner: str
    queue: str
    version: int
    deprecated: bool
    presets: int
    """Presets of the active version."""
    workspaces: int
    """Live workspaces of any version, claimed or not."""


class TemplateChange(Payload):
    """Result of `templates deprecate` or `templates delete`."""

    id: UUID
    template: str
    """`organization/template`."""
    deprecated: bool
    deleted: bool
    changed: bool
    """False when the template was deprecated or deleted before."""
