"""Joins several template files into one. What they say about one organization is combined."""

from __future__ import annotations

from collections.abc import Sequence

from prebuilds.api import InvalidInput
from prebuilds.templates.entries import OrganizationEntry
from prebuilds.templates.file import TemplateFile
from prebuilds.vocabulary.owners import owner_key


def join_files(files: Sequence[tuple[str, TemplateFile]]) -> TemplateFile:
    """Return one file with everything that *files* say, in their order.

    Args:
        files: Pairs of the file's name, for messages, and its content.
    Raises:
        InvalidInput: Two files set a field of an organization to different values, or contain the same template.
    """
    joined: dict[str, OrganizationEntry] = {}
    said_by: dict[str, str] = {}
    problems: dict[str, str] = {}
    for file, content in files:
        for entry in content.organizations:
            path = f"organizations[{entry.name}]"
            for template in entry.templates:
                place = f"{path}.templates[{template.name}]"
                if place in said_by:
                    problems[f"{file}: {place}"] = f"is in {said_by[place]}, too; keep one"
                said_by.setdefault(place, file)
            before = joined.get(entry.name)
            for field in ("prebuilds", "members_exact", "limits"):
                value = getattr(entry, field)
                if value is None:
                    continue
                if before is not None and getattr(before, field) not in (None, value):
                    problems[f"{file}: {path}.{field}"] = f"is another in {said_by[f'{path}.{field}']}; keep one"
                said_by.setdefault(f"{path}.{field}", file)
            joined[entry.name] = entry if before is None else _both(before, entry)
    if problems:
        text = "\n".join(f"{path}: {message}" for path, message in problems.items())
        raise InvalidInput(f"the template files contradict each other:\n{text}", problems)
    return TemplateFile(organizations=list(joined.values()))


def _both(before: OrganizationEntry, entry: OrganizationEntry) -> OrganizationEntry:
    members = {owner_key(name): name for name in [*entry.members, *before.members]}
    return before.model_copy(
        update={
            "prebuilds": entry.prebuilds if before.prebuilds is None else before.prebuilds,
            "members_exact": entry.members_exact if before.members_exact is None else before.members_exact,
            "limits": entry.limits if before.limits is None else before.limits,
            "members": list(dict.fromkeys(members[owner_key(name)] for name in [*before.members, *entry.members])),
            "templates": [*before.templates, *entry.templates],
        }
    )
