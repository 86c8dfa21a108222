"""Bind mounts whose path has placeholders: the values of a claim cannot lead out of the template's own folder.

That folder is the path before the first placeholder: `/srv/homes` in `/srv/homes/{owner}/{param.project}`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prebuilds.provisioners.base import InvalidSource


@dataclass(frozen=True)
class Bind:
    """One bind mount with its placeholders filled."""

    field: str
    """The template's field, for messages."""
    base: str
    """The template's own folder."""
    path: str


def base_of(text: str) -> str | None:
    """Return the template's own folder in a bind's text; None when the text has no placeholder.

    Raises:
        ValueError: No folder precedes the first placeholder, so a claim could name any folder of the host.
    """
    literal, brace, _ = text.replace("{{", "  ").replace("}}", "  ").partition("{")
    if not brace:
        return None
    base = text[: literal.rindex("/")].replace("{{", "{").replace("}}", "}")
    if not base.strip("/"):
        raise ValueError("must name a folder before its first placeholder, such as /srv/homes/{owner}")
    return base


def check_text(bind: Bind) -> None:
    """Check the path's text.

    Raises:
        InvalidSource: The values lead out of the template's own folder, or to that folder itself.
    """
    below = bind.path[len(bind.base) :].removesuffix("/").split("/")[1:]
    if not below or {"", ".", ".."}.intersection(below):
        _refuse(bind, f"its values must lead to a folder below {bind.base}, without empty parts, . and ..")


def check_links(binds: Sequence[Bind]) -> None:
    """Follow the links in this host's file system, which workspaces with a folder there may have made. Blocks.

    Raises:
        InvalidSource: A link leads out of the template's own folder.
    """
    for bind in binds:
        if not Path(os.path.realpath(bind.path)).is_relative_to(os.path.realpath(bind.base)):
            _refuse(bind, f"a link below {bind.base} leads out of it", "remove the link")


def _refuse(bind: Bind, message: str, remedy: str | None = None) -> None:
    raise InvalidSource.field(bind.field, message, remedy)
