"""A container's user follows from its own passwd and group files; so does the search path of its programs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.container.inside import Inside
from prebuilds.provisioners.container.state import Container, container_of
from prebuilds.provisioners.container.users import owner_in

FILES = {
    "/etc/passwd": "root:x:0:0::/:/bin/sh\nbroken\nodd:x:many:1::/:/bin/sh\ndev:x:1500:1600::/:/bin/sh\n",
    "/etc/group": "root:x:0:\nstaff:x:1700:dev\n",
}
INSPECTED = {"Id": "1", "Name": "/one", "State": {"Running": True}, "Config": {"Labels": {}}}


class Files(Inside):
    def __init__(self, files: dict[str, str]) -> None:
        self.files = files

    async def read(self, name: str, path: str) -> str | None:
        return self.files.get(path)


def container(user: str) -> Container:
    return replace(container_of(INSPECTED), user=user)


@pytest.mark.parametrize(
    ("user", "owner"),
    [
        ("", (0, 0)),
        ("root", (0, 0)),
        ("1000", (1000, 0)),
        ("1000:1001", (1000, 1001)),
        ("1500", (1500, 1600)),
        ("dev", (1500, 1600)),
        ("dev:staff", (1500, 1700)),
        ("dev:7", (1500, 7)),
        ("9:staff", (9, 1700)),
    ],
)
async def test_a_user_is_who_the_container_says(user: str, owner: tuple[int, int]) -> None:
    assert await owner_in(Files(FILES), container(user)) == owner


async def test_an_image_from_scratch_knows_numbers_alone() -> None:
    assert await owner_in(Files({}), container("1000")) == (1000, 0)
    for user in ("dev", "1000:staff"):
        with pytest.raises(InvalidSource, match="does not have") as refused:
            await owner_in(Files({}), container(user))
        assert list(refused.value.details) == ["source.user"]


@pytest.mark.parametrize("user", ["nobody", "odd", "broken", "dev:nobody"])
async def test_a_user_whom_no_line_names_is_refused(user: str) -> None:
    with pytest.raises(InvalidSource, match="does not have"):
        await owner_in(Files(FILES), container(user))
