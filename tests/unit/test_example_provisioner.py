"""The example driver beside the protocol: a long copy blocks nothing else, and a cancelled one keeps its lock."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.base import Provision
from tests.broken_drivers import FolderProvisioner
from tests.identities import DEPLOYMENT, WHO


def build_of(skeleton: Path, number: int = 1, workspace_id: UUID | None = None) -> Provision:
    return Provision(
        **WHO,
        workspace_id=workspace_id or uuid4(),
        build_number=number,
        name="dev",
        owner="alice",
        organization="acme",
        template="folder",
        preset=None,
        source={"skeleton": str(skeleton)},
    )


class Quiet:
    def __call__(self, line: str) -> None: ...

    async def save_state(self, state: dict[str, Any]) -> None: ...


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    (tmp_path / "skeleton").mkdir()
    (tmp_path / "skeleton" / "main.py").touch()
    return tmp_path / "skeleton"


class LongCopy:
    """A copy that begins, and ends when it is let."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._copytree = shutil.copytree

    def __call__(self, *args: Any) -> Any:
        self.begun.set()
        if not self.go_on.wait(timeout=10):
            raise TimeoutError("the event loop stands still while it is copied")
        return self._copytree(*args)


@pytest.fixture
def long_copy(monkeypatch: pytest.MonkeyPatch) -> Iterator[LongCopy]:
    copy = LongCopy()
    monkeypatch.setattr(shutil, "copytree", copy)
    yield copy
    copy.go_on.set()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_the_event_loop_goes_on_while_it_copies(tmp_path: Path, skeleton: Path, long_copy: LongCopy) -> None:
    driver, build = FolderProvisioner(tmp_path, DEPLOYMENT), build_of(skeleton)
    made = asyncio.create_task(driver.apply(build, Quiet()))
    await until(long_copy.begun.is_set)
    assert not await driver.probe(build.workspace_id)
    long_copy.go_on.set()
    await made
    assert await driver.probe(build.workspace_id)


async def test_a_cancelled_copy_holds_its_lock_until_it_has_ended(
    tmp_path: Path, skeleton: Path, long_copy: LongCopy
) -> None:
    driver, build = FolderProvisioner(tmp_path, DEPLOYMENT), build_of(skeleton)
    made = asyncio.create_task(driver.apply(build, Quiet()))
    await until(long_copy.begun.is_set)
    made.cancel()
    gone = asyncio.create_task(driver.destroy(build_of(skeleton, 2, build.workspace_id), Quiet()))
    done, _ = await asyncio.wait([made, gone], timeout=0.2)
    assert not done
    long_copy.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await made
    await gone
    assert await driver.inventory() == []


async def test_a_folder_goes_whole_or_its_removal_fails(unprivileged: Path) -> None:
    (skeleton := unprivileged / "skeleton").mkdir()
    driver, build = FolderProvisioner(unprivileged, DEPLOYMENT), build_of(skeleton)
    made = await driver.apply(build, Quiet())
    cached = Path(made.resources["folder"]) / "go"
    cached.mkdir()
    (cached / "main.go").touch()
    cached.chmod(0o555)
    root = unprivileged / "folders" / str(DEPLOYMENT)
    root.chmod(0o555)
    try:
        with pytest.raises(ProvisionFailed, match="cannot be removed"):
            await driver.destroy(build_of(skeleton, 2, build.workspace_id), Quiet())
    finally:
        root.chmod(0o755)
    assert not cached.exists()
    await driver.destroy(build_of(skeleton, 2, build.workspace_id), Quiet())
    assert await driver.inventory() == []
