"""Templates, and what commands on them return."""

from __future__ import annotations

from uuid import UUID

from prebuilds.payloads import Payload


class TemplateRow(Payload):
    id: UUID
    organization: str
    template: str
    provisioner: str
    queue: str
    version: int
    deprecated: bool
    presets: int
    """Of the active version."""
    workspaces: int
    """Live ones of any version, claimed or not."""


class TemplateChange(Payload):
    id: UUID
    template: str
    """`organization/template`."""
    deprecated: bool
    deleted: bool
    changed: bool
    """False: it was so already."""
