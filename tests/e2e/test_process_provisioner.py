"""The process driver with real processes: calls are idempotent, killed starts are found, failures leave nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.base import InvalidSource, StaleBuild
from prebuilds.provisioners.process import host as process_host
from prebuilds.provisioners.process.driver import ProcessProvisioner
from tests.e2e.process_steps import SERVE, SLEEP, driver_in, log, running
from tests.e2e.provisions import later, wanted
from tests.identities import DEPLOYMENT

READABLE = {"isolation": "none"}
"""Allows claims with secrets where workspaces can read each other's files, as in pytest's folders."""
NO_PROGRAM = READABLE | {"command": ["no-such-program", "{port}"]}


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[ProcessProvisioner]:
    async with driver_in(tmp_path) as driver:
        yield driver


async def test_a_workspace_serves_stops_starts_and_goes(driver: ProcessProvisioner, tmp_path: Path) -> None:
    first = wanted(SERVE)
    made = await driver.apply(first, log)
    assert made.address is not None
    assert httpx.get(made.address).status_code == 200
    assert await driver.probe(first.workspace_id)
    folder = Path(made.resources["folder"])
    (folder / "kept.txt").write_text("mine")

    await driver.stop(later(first), log)
    assert await running(driver) == {first.workspace_id: False}
    assert not await driver.probe(first.workspace_id)
    again = await driver.apply(later(later(first)), log)
    assert (again.address, again.resources["folder"]) == (made.address, made.resources["folder"])
    assert "kept.txt" in httpx.get(made.address).text

    await driver.destroy(wanted(SERVE, 4, first.workspace_id), log)
    assert await running(driver) == {}
    assert not folder.exists()
    assert not list((tmp_path / "ports").iterdir())


async def test_a_paused_workspace_is_its_folder_and_comes_back_with_it(driver: ProcessProvisioner) -> None:
    first = wanted(SERVE)
    made = await driver.apply(first, log)
    kept = Path(made.resources["folder"]) / "kept.txt"
    kept.write_text("mine")
    pause = later(first)
    await driver.pause(pause, log)
    assert not psutil.pid_exists(made.resources["pid"])
    assert (await running(driver), kept.read_text()) == ({first.workspace_id: False}, "mine")
    resumed = await driver.resume(later(pause), log)
    assert resumed.address is not None
    assert "kept.txt" in httpx.get(resumed.address).text
    assert await driver.probe(first.workspace_id)


async def test_each_call_made_twice_at_once_makes_one_workspace(driver: ProcessProvisioner) -> None:
    build = wanted(SERVE)
    made = await asyncio.gather(*[driver.apply(build, log) for _ in range(4)])
    assert len({m.resources["pid"] for m in made}) == 1
    claim = later(build, owner="alice", name="alice-dev")
    claimed = await asyncio.gather(driver.claim(claim, log), driver.claim(claim, log))
    assert {c.resources["pid"] for c in claimed} == {made[0].resources["pid"]}
    gone = later(claim)
    await asyncio.gather(driver.destroy(gone, log), driver.destroy(gone, log))
    await driver.destroy(gone, log)
    assert await running(driver) == {}


async def test_claim_tells_the_process_by_file_and_signal(driver: ProcessProvisioner, tmp_path: Path) -> None:
    script = (
        "import os, signal, pathlib, time\n"
        "def told(*_): pathlib.Path('told').write_text(pathlib.Path(os.environ['PREBUILDS_CLAIM_FILE']).read_text())\n"
        "signal.signal(signal.SIGUSR1, told)\n"
        "pathlib.Path('up').touch()\n"
        "while True: time.sleep(0.05)\n"
    )
    source = {"command": [sys.executable, "-c", script], "ready": {"file": "up"}, "claim": {"signal": "SIGUSR1"}}
    build = wanted(READABLE | source)
    made = await driver.apply(build, log)
    await driver.claim(later(build, owner="alice", name="dev", claim_parameters={"token": "a b"}), log)
    claim_copy = Path(made.resources["folder"]) / "told"
    async with asyncio.timeout(20):
        while not (claim_copy.exists() and claim_copy.read_text()):
            await asyncio.sleep(0.02)
    content = json.loads(claim_copy.read_text())
    assert (content["owner"], content["name"], content["claim_parameters"]) == ("alice", "dev", {"token": "a b"})
    claim_file = tmp_path / "workspaces" / str(build.workspace_id) / "claim.json"
    assert claim_file.stat().st_mode & 0o077 == 0


async def test_a_claim_that_starts_the_process_again_signals_it_once_it_is_ready(driver: ProcessProvisioner) -> None:
    script = (
        "import pathlib, signal, time\n"
        "while pathlib.Path('dead').exists() and not pathlib.Path('slow').exists(): time.sleep(0.01)\n"
        "signal.signal(signal.SIGUSR1, lambda *_: pathlib.Path('told').touch())\n"
        "pathlib.Path('up').touch()\n"
        "while True: time.sleep(0.05)\n"
    )
    build = wanted({"command": [sys.executable, "-c", script], "ready": {"file": "up"}, "claim": {"signal": "SIGUSR1"}})
    made = await driver.apply(build, log)
    home, pid = Path(made.resources["folder"]), made.resources["pid"]
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(20):
        while await running(driver) != {build.workspace_id: False}:
            await asyncio.sleep(0.01)
    (home / "up").unlink()
    (home / "dead").touch()
    claim = asyncio.create_task(driver.claim(later(build, owner="alice"), log))
    async with asyncio.timeout(30):
        while (await running(driver)) != {build.workspace_id: True}:
            await asyncio.sleep(0.01)
        (home / "slow").touch()
        claimed = await claim
        while not (home / "told").exists():
            await asyncio.sleep(0.01)
    assert claimed.resources["pid"] != pid


async def test_a_crash_between_start_and_record_is_found_by_its_tag(
    driver: ProcessProvisioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, pids = wanted(SLEEP), []
    spawn = process_host.spawn

    def crash_after(*args: Any, **kwargs: Any) -> Any:
        pids.append(spawn(*args, **kwargs).pid)
        while not psutil.Process(pids[-1]).environ():
            pass  # the environment is empty for an instant after exec; a driver after a crash reads it later
        raise KeyboardInterrupt  # like a kill: nothing of ours runs after it

    monkeypatch.setattr(process_host, "spawn", crash_after)
    with pytest.raises(KeyboardInterrupt):
        await driver.apply(build, log)
    monkeypatch.setattr(process_host, "spawn", spawn)
    made = await ProcessProvisioner(tmp_path, DEPLOYMENT).apply(build, log)
    assert made.resources["pid"] == pids[0]


async def test_an_earlier_build_is_refused_also_after_the_end(driver: ProcessProvisioner) -> None:
    build = wanted(SLEEP, 3)
    await driver.apply(build, log)
    earlier = build.model_copy(update={"build_number": 2})
    for effect in (driver.apply, driver.claim, driver.stop, driver.destroy):
        with pytest.raises(StaleBuild):
            await effect(earlier, log)
    await driver.destroy(later(build), log)
    with pytest.raises(StaleBuild):
        await driver.apply(build, log)


async def test_an_inventory_removes_records_of_long_gone_workspaces(driver: ProcessProvisioner, tmp_path: Path) -> None:
    gone, there = wanted(SLEEP), wanted(SLEEP)
    for build in (gone, there):
        await driver.apply(build, log)
    await driver.destroy(later(gone), log)
    kept = [path for name in (".locks", ".gone") for path in (tmp_path / "workspaces" / name).iterdir()]
    assert sorted(path.name for path in kept) == sorted([str(gone.workspace_id)] * 2 + [str(there.workspace_id)])
    for path in kept:
        os.utime(path, (0, 0))
    await driver.inventory()
    assert [path.name for path in kept if path.exists()] == [str(there.workspace_id)]


async def test_values_reach_the_command_as_they_are(driver: ProcessProvisioner) -> None:
    nasty = "a b'c\"d$(touch hacked)`id`;\nnext {port} %s"
    script = (
        "import sys, time, pathlib\n"
        "pathlib.Path('a').write_text(sys.argv[1])\n"
        "pathlib.Path('written').touch()\n"
        "time.sleep(99)\n"
    )
    source = {"command": [sys.executable, "-c", script, "{param.size}"], "ready": {"file": "written"}}
    made = await driver.apply(wanted(source, parameters={"size": nasty}), log)
    assert (Path(made.resources["folder"]) / "a").read_text() == nasty
    assert not (Path(made.resources["folder"]) / "hacked").exists()


async def test_the_workers_secrets_stay_with_the_worker(
    driver: ProcessProvisioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREBUILDS_DATABASE_URL", "postgresql://secret")
    made = await driver.apply(wanted(SLEEP), log)
    assert "PREBUILDS_DATABASE_URL" not in psutil.Process(made.resources["pid"]).environ()


async def test_a_command_that_ends_early_fails_with_its_log(driver: ProcessProvisioner) -> None:
    source = {"command": ["sh", "-c", "echo out of cheese; exit 7"], "ready": {"file": "never"}}
    with pytest.raises(ProvisionFailed, match=r"status 7 (.|\n)*out of cheese"):
        await driver.apply(wanted(source), log)
    assert await running(driver) == {}


async def test_a_claim_s_secrets_in_the_log_are_not_in_the_error(driver: ProcessProvisioner) -> None:
    key = "-----BEGIN KEY-----\n" + "\n".join(f"line {n} of the key" for n in range(20)) + "\n-----END KEY-----"
    script = (
        'cat "$PREBUILDS_CLAIM_FILE"; sed "s/\\\\\\\\n/\\\\n/g" "$PREBUILDS_CLAIM_FILE"; echo out of cheese; exit 7'
    )
    build = wanted(
        READABLE | {"command": ["sh", "-c", script], "ready": {"file": "never"}},
        claimed=True,
        owner="alice",
        claim_parameters={"key": key},
    )
    with pytest.raises(ProvisionFailed, match="out of cheese") as failed:
        await driver.apply(build, log)
    assert "of the key" not in str(failed.value)
    assert "(sensitive value)" in str(failed.value)


async def test_a_workspace_that_is_never_ready_fails_and_leaves_nothing(driver: ProcessProvisioner) -> None:
    source = {"command": ["sleep", "infinity"], "ready": {"file": "never"}}
    with pytest.raises(ProvisionFailed, match=r"not ready within 0\.2 s"):
        await driver.apply(wanted(source, ready_timeout_s=0.2), log)
    assert await running(driver) == {}


async def test_a_cancelled_start_leaves_nothing(driver: ProcessProvisioner) -> None:
    build = wanted({"command": ["sleep", "infinity"], "ready": {"file": "never"}})
    task = asyncio.create_task(driver.apply(build, log))
    while not (await running(driver)).get(build.workspace_id):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await running(driver) == {}
    await driver.apply(wanted(SLEEP, 1, build.workspace_id), log)  # the same build may be tried again


async def test_a_missing_program_is_an_invalid_source(driver: ProcessProvisioner) -> None:
    source = {"command": ["no-such-program"]}
    with pytest.raises(InvalidSource, match=r"source\.command: no program no-such-program"):
        driver.validate(source)
    with pytest.raises(InvalidSource):
        await driver.apply(wanted(source), log)


async def test_a_start_that_can_never_work_leaves_nothing(driver: ProcessProvisioner, tmp_path: Path) -> None:
    build = wanted(NO_PROGRAM, claimed=True, claim_parameters={"token": "hunter2"})
    with pytest.raises(InvalidSource):
        await driver.apply(build, log)
    assert await running(driver) == {}
    assert list((tmp_path / "ports").iterdir()) == []


async def test_suspend_and_restore_bring_the_same_ones_back(driver: ProcessProvisioner, tmp_path: Path) -> None:
    runs, stopped = wanted(SERVE), wanted(SLEEP)
    made = await driver.apply(runs, log)
    await driver.apply(stopped, log)
    await driver.stop(later(stopped), log)
    assert await driver.suspend() == 1
    assert set((await running(driver)).values()) == {False}
    assert len(await ProcessProvisioner(tmp_path, DEPLOYMENT).restore()) == 1
    assert len(await driver.restore()) == 0
    assert await running(driver) == {runs.workspace_id: True, stopped.workspace_id: False}
    again = await driver.apply(runs, log)
    assert again.address == made.address


async def test_restoring_waits_for_prebuilds_and_not_for_claimed_workspaces(driver: ProcessProvisioner) -> None:
    never_again = {"command": ["sh", "-c", "test -e bad || touch up; exec sleep infinity"], "ready": {"file": "up"}}
    serves, ends = wanted(SERVE), wanted({**SLEEP, "command": ["sh", "-c", "test ! -e bad && exec sleep 1000"]})
    claimed = wanted(never_again, owner="alice", claimed=True)
    await driver.apply(serves, log)
    for provision in (ends, claimed):
        home = Path((await driver.apply(provision, log)).resources["folder"])
        (home / "bad").touch()
        (home / "up").unlink(missing_ok=True)
    assert await driver.suspend() == 3
    restored = await driver.restore()
    assert set(restored) == {provision.workspace_id for provision in (serves, ends, claimed)}
    async with asyncio.timeout(30):
        await driver.wait_restored(restored)  # a workspace that ends again blocks nobody
    assert await driver.probe(serves.workspace_id)
    assert await driver.restore() == [ends.workspace_id]


async def test_a_workspace_that_failed_to_start_again_is_not_restored(driver: ProcessProvisioner) -> None:
    source = {"command": ["sh", "-c", "test -e bad || touch up; exec sleep infinity"], "ready": {"file": "up"}}
    first = wanted(source)
    home = Path((await driver.apply(first, log)).resources["folder"])
    await driver.stop(later(first), log)
    (home / "up").rename(home / "bad")
    again = later(later(first), ready_timeout_s=0.2)
    with pytest.raises(ProvisionFailed, match="not ready"):
        await driver.apply(again, log)
    assert len(await driver.restore()) == 0
    assert await running(driver) == {first.workspace_id: False}
    (home / "bad").unlink()
    await driver.apply(later(later(first)), log)  # the same build, with enough time
    assert await driver.suspend() == 1
    assert len(await driver.restore()) == 1


@pytest.mark.parametrize(
    "ready",
    [{"http": "/"}, {"tcp": True}, {"command": [sys.executable, "-c", "import os; os.stat('up')"]}, {"file": "up"}],
    ids=["http", "tcp", "command", "file"],
)
async def test_each_readiness_check_waits_until_the_process_is_ready(
    driver: ProcessProvisioner, ready: dict[str, Any]
) -> None:
    script = (
        "import http.server as h, sys, pathlib; pathlib.Path('up').touch(); "
        "h.test(h.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind='127.0.0.1')"
    )
    source = {"command": [sys.executable, "-c", script, "{port}"], "ready": ready}
    await driver.apply(wanted(source), log)
