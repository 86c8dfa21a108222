"""The user and group id of a container's first process, which the files of a claim belong to.

The engine tells the user as the image or the template writes it: `1000`, `1000:50`, `dev`, `dev:staff`. A name means
what the container's own /etc/passwd and /etc/group say, as it does for the engine.
"""

from __future__ import annotations

from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.container.inside import Inside
from prebuilds.provisioners.container.state import Container

PASSWD, GROUP = "/etc/passwd", "/etc/group"
ROOT = (0, 0)


async def owner_in(engine: Inside, container: Container) -> tuple[int, int]:
    """Return user id and group id of the container's user. A number that /etc/passwd does not have is in group 0.

    Raises:
        InvalidSource: /etc/passwd or /etc/group does not have the name.
    """
    user, _, group = container.user.partition(":")
    if not user:
        return ROOT
    if user.isdecimal() and group.isdecimal():
        return int(user), int(group)
    row = _find(await engine.read(container.name, PASSWD), user, length=4, number=2)
    uid, gid = (int(row[2]), int(row[3])) if row is not None else (_number(user, PASSWD), 0)
    if group:
        found = _find(await engine.read(container.name, GROUP), group, length=3, number=2)
        gid = int(found[2]) if found is not None else _number(group, GROUP)
    return uid, gid


def _find(text: str | None, wanted: str, *, length: int, number: int) -> list[str] | None:
    """Return the fields of the first line with this name, or with this number; None when there is none.

    Args:
        length: The number of fields up to the last one that is read.
        number: The index of the field with the number. It and all behind it, up to *length*, must be numbers.
    """
    for line in (text or "").splitlines():
        fields = line.split(":")
        if (
            len(fields) >= length
            and wanted in (fields[0], fields[number])
            and all(field.isdecimal() for field in fields[number:length])
        ):
            return fields
    return None


def _number(text: str, file: str) -> int:
    if not text.isdecimal():
        raise InvalidSource.field(
            "source.user",
            f"the image's {file} does not have {text}",
            "write the user as numbers, such as 1000:1000, or add it to the image",
        )
    return int(text)
