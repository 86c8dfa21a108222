"""Host drivers are called concurrently, and a broken one does not prevent calls of the others."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from prebuilds import provisioners
from prebuilds.provisioners import host_drivers
from prebuilds.provisioners.base import Provisioner
from prebuilds.provisioners.container.driver import ContainerProvisioner
from prebuilds.provisioners.host_drivers import HostDrivers
from prebuilds.provisioners.optional import HostProvisioner, TendedProvisioner
from prebuilds.provisioners.process import driver as process_driver
from prebuilds.provisioners.process.driver import ProcessProvisioner
from prebuilds.provisioners.process.folder import Launch, ProcessFolders, Record
from tests.host_driver import HostFolder
from tests.identities import DEPLOYMENT


def suspended(state_dir: Path) -> UUID:
    """A workspace of the example's host driver that waits to be restored."""
    workspace_id = uuid4()
    folder = state_dir / "folders" / str(DEPLOYMENT) / str(workspace_id)
    folder.mkdir(parents=True)
    (folder / "suspended").touch()
    return workspace_id


class Fails(HostFolder):
    def restore(self):  # type: ignore[no-untyped-def]
        raise RuntimeError("no power")

    async def suspend(self) -> int:
        raise RuntimeError("no power")


class Hangs(HostFolder):
    async def restore(self) -> list[UUID]:
        await asyncio.sleep(3600)
        return []


def test_the_protocols_are_optional(tmp_path: Path) -> None:
    process, container = ProcessProvisioner(tmp_path, DEPLOYMENT), ContainerProvisioner(tmp_path, DEPLOYMENT)
    assert isinstance(process, HostProvisioner)
    assert isinstance(process, TendedProvisioner)
    assert not isinstance(container, HostProvisioner | TendedProvisioner)
    assert list(tmp_path.iterdir()) == [], "a driver that is only loaded leaves nothing on the host"


async def test_a_driver_that_fails_or_hangs_keeps_no_other_from_coming_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host_drivers, "CALL_TIMEOUT_S", 0.05)
    workspace_id = suspended(tmp_path)
    broken = {"fails": Fails(tmp_path / "a", DEPLOYMENT), "hangs": Hangs(tmp_path / "b", DEPLOYMENT)}
    drivers = HostDrivers({**broken, "good": HostFolder(tmp_path, DEPLOYMENT)})
    restored = await drivers.restore()
    assert restored == {"good": [workspace_id]}
    await drivers.wait_restored(restored)
    assert next(tmp_path.glob("folders/*/*/waited"))
    assert await drivers.suspend() == 1
    failed = {(record.__dict__["provisioner"], record.__dict__["method"]) for record in caplog.records}
    assert failed == {("fails", "restore"), ("hangs", "restore"), ("fails", "suspend")}


def test_a_driver_that_cannot_be_loaded_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host_drivers, "known", lambda: ["absent", "process"])

    def load(name: str) -> Provisioner:
        if name == "absent":
            raise ModuleNotFoundError("no module named x")
        return provisioners.load(name, tmp_path, DEPLOYMENT)

    with caplog.at_level(logging.WARNING):
        drivers = HostDrivers.installed(load)
    assert list(drivers._hosts) == ["process"]
    assert [record.__dict__["provisioner"] for record in caplog.records] == ["absent"]


async def test_a_worker_bounds_the_logs_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_driver, "TRIM_INTERVAL_S", 0.01)
    folders, workspace_id = ProcessFolders(tmp_path), uuid4()
    launch = Launch(
        argv=["true"],
        env={},
        port=None,
        ready=None,
        ready_timeout_s=1,
        address=None,
        stop_signal="SIGTERM",
        stop_timeout_s=1,
        log_max=1000,
    )
    folders.write(
        Record(
            deployment_id=DEPLOYMENT, workspace_id=workspace_id, made_by=1, build_number=1, wanted=True, launch=launch
        )
    )
    folders.log(workspace_id).write_text("x" * 5000)
    tending = asyncio.create_task(HostDrivers({"process": ProcessProvisioner(tmp_path, DEPLOYMENT)}).tend())
    async with asyncio.timeout(10):
        while folders.log(workspace_id).stat().st_size:
            await asyncio.sleep(0.01)
    tending.cancel()
    assert folders.log(workspace_id).with_name("log.1").stat().st_size == 500
