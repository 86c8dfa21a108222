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


class TemplatePage(Payload):
    """A page of the list of templates, by path."""

    templates: list[TemplateRow]
    next: str | None
    """The cursor to send as `after` for the next page; None when this is the last page."""


class TemplateChange(Payload):
    """Result of `templates deprecate` or `templates delete`."""

    id: UUID
    template: str
    """`organization/template`."""
    deprecated: bool
    deleted: bool
    changed: bool
    """False when the template was deprecated or deleted before."""
