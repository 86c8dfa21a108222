"""Paths of presets, templates and workspaces, as people type them."""

from __future__ import annotations

from collections.abc import Sequence

from prebuilds.api import InvalidInput
from prebuilds.vocabulary import NAME_LENGTH_MAX, NAME_PATTERN
from prebuilds.vocabulary.owners import check_owner_name


def parse_path(text: str, parts: int, field: str, example: str) -> Sequence[str]:
    """Split `organization/template/preset`; each part is a name.

    Raises:
        InvalidInput: Naming *field*.
    """
    names = text.split("/")
    if len(names) != parts or not all(NAME_PATTERN.fullmatch(n) and len(n) <= NAME_LENGTH_MAX for n in names):
        raise InvalidInput.field(field, f"must be an id or a path such as {example}")
    return names


def parse_workspace_path(text: str) -> tuple[str, str]:
    """Split `owner/name` into the owner's name, which has no slash, and the workspace's.

    Raises:
        InvalidInput: Naming the field `workspace`.
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
