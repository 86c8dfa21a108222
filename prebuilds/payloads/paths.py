"""Paths of presets, templates and workspaces, as people type them."""

from __future__ import annotations

from collections.abc import Sequence

from prebuilds.api import InvalidInput
from prebuilds.vocabulary import NAME_LENGTH_MAX, NAME_PATTERN
from prebuilds.vocabulary.owners import check_owner_name


def parse_path(text: str, parts: int, field: str, example: str) -> Sequence[str]:
    """Split a path such as `organization/template/preset` into its names.

    Args:
        parts: The number of names that the path must have.
        field: The field that the error names.
        example: A valid path, for the message.
    Raises:
        InvalidInput: *text* is no such path. The details name *field*.
    """
    names = text.split("/")
    if len(names) != parts or not all(NAME_PATTERN.fullmatch(n) and len(n) <= NAME_LENGTH_MAX for n in names):
        raise InvalidInput.field(field, f"must be an id or a path such as {example}")
    return names


def parse_workspace_path(text: str) -> tuple[str, str]:
    """Split `owner/name` into the owner's name and the workspace's name; neither has a slash.

    Raises:
        InvalidInput: *text* is no such path. The details name the field `workspace`.
    """
    owner, slash, name = text.partition("/")
    try:
        check_owner_name(owner)
    except ValueError as error:
        slash = ""
        if owner and text.count("/") == 1:
            raise InvalidInput.field("workspace", f"its owner {error}") from error
    if not slash or not NAME_PATTERN.fullmatch(name) or len(name) > NAME_LENGTH_MAX:
        raise InvalidInput.field("workspace", "must be an id or a path such as alice/alice-dev")
    return owner, name
