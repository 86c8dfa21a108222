"""User ids of workspaces: their assignment, the hosts that have them, and the processes that end with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from prebuilds.provisioners.base import InvalidSource, Provision
from prebuilds.provisioners.kit import processes
from prebuilds.provisioners.kit.confined import start_session
from prebuilds.provisioners.process import host as process_host
from prebuilds.provisioners.process import ids as process_ids
from prebuilds.provisioners.process import isolation as process_isolation
from prebuilds.provisioners.process.driver import ProcessProvisioner
from prebuilds.provisioners.process.ids import UserIds, end_user, hand_folder_to
from prebuilds.provisioners.process.isolation import IsolationUnavailable, find_isolation
from prebuilds.settings.user_ids import VARIABLE, parse_user_ids
from tests.identities import DEPLOYMENT, WHO

linux_root = pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root gives ids to others")


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UserIds:
    """Five ids, in a folder that counts as open to others."""
    monkeypatch.setattr(process_isolation, "_obstacle", lambda *_: ("", ""))
    monkeypatch.setenv(VARIABLE, "100000-100004")
    return UserIds(tmp_path)


@linux_root
def test_an_id_is_one_workspace_s_until_that_is_gone_and_comes_around_last(users: UserIds) -> None:
    workspaces = [uuid4() for _ in range(4)]
    with ThreadPoolExecutor(8) as threads:
        taken = dict(zip(workspaces * 4, threads.map(users.take, workspaces * 4), strict=True))
    assert sorted(taken.values()) == [100_000, 100_001, 100_002, 100_003]
    assert [users.of(workspace) for workspace in workspaces] == [taken[workspace] for workspace in workspaces]
    users.give_back(workspaces[0])
    assert users.of(workspaces[0]) is None
    assert users.take(uuid4()) == 100_004, "an unused id comes before a returned one"
    again = uuid4()
    assert users.take(again) == taken[workspaces[0]]
    with pytest.raises(process_ids.ProvisionFailed, match=f"every user id of 100000-100004 is taken; give {VARIABLE}"):
        users.take(uuid4())
    users.give_back(again)


@linux_root
def test_ending_a_user_ends_all_its_processes_even_hidden_ones(users: UserIds, tmp_path: Path) -> None:
    script = "(setsid env -i sleep 1000 &) ; echo up; exec sleep 1000"
    child = start_session(["sh", "-c", script], user=100_004, folder=Path("/"), env={}, output=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"up\n"
        assert users.take(uuid4()) == 100_000
        (tmp_path / "user-ids" / "last").write_text("100003")
        assert users.take(uuid4()) == 100_001, "something runs as 100004, whoever started it"
        end_user(100_004)
        assert child.wait() == -9
    assert not [user for user, _ in process_ids._running_users() if user == 100_004]


@linux_root
def test_a_workspace_cannot_pass_its_processes_off_as_a_neighbours(users: UserIds) -> None:
    """Otherwise a neighbour whose worker died would get this process, and a forking one would delay its end."""
    neighbour, hostile = uuid4(), uuid4()
    mine, theirs = users.take(hostile), users.take(neighbour)
    assert mine is not None
    assert theirs is not None
    tags = {process_host.WORKSPACE_TAG: str(neighbour), process_host.HOST_TAG: f"test/{hostile}"}
    children = [
        start_session(["sleep", "1000"], user=user, folder=Path("/"), env=tags, output=subprocess.DEVNULL)
        for user in (mine, theirs)
    ]
    forged, true = (child.pid for child in children)
    host = tags[process_host.HOST_TAG]
    try:
        while len(process_host.find_tagged(host)) < 2:
            pass
        for workspace_id in (None, neighbour):
            found = process_host.find_tagged(host, workspace_id, users.owners())
            assert [one.pid for _, one in found] == [true]
        process_host.end_all(host, neighbour, Path("/nowhere"), None, signal.SIGTERM, 0.0, users.owners())
        assert children[1].wait() == -9
        assert children[0].poll() is None, f"{forged} runs on"
    finally:
        for child in children:
            child.kill()
            child.wait()


@linux_root
def test_a_home_that_gets_another_id_takes_nothing_of_others_along(tmp_path: Path) -> None:
    """The workspace may have put links to anything there, including hard links where the kernel allows them."""
    precious = tmp_path / "shadow"
    precious.write_text("root's")
    home = tmp_path / "workspaces" / "x" / "home"
    home.mkdir(parents=True)
    (home / "notes").touch()
    (home / "link").symlink_to(precious)
    for path in (home, home / "notes"):
        os.chown(path, 100_001, 100_001)
    os.link(precious, home / "hard")
    (home / ".tmp").mkdir()  # a crash came before its ownership changed
    hand_folder_to(100_002, home.parent, home, home.parent / "log")
    owners = {path.name: path.lstat().st_uid for path in (home, *home.iterdir(), precious)}
    assert owners == {"home": 100_002, "notes": 100_002, ".tmp": 100_002, "link": 0, "hard": 0, "shadow": 0}

    (home / ".tmp").rmdir()
    os.link(precious, home / ".tmp")
    hand_folder_to(100_002, home.parent, home, home.parent / "log")
    assert precious.stat().st_uid == 0


@linux_root
def test_a_program_of_a_template_never_runs_with_our_rights(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    env = {"LD_PRELOAD": str(tmp_path / "evil.so"), "PATH": str(tmp_path)}  # the loader says as whom it looks for it
    log = tmp_path / "log"
    found = process_host.spawn(
        ["/bin/sh", "-c", "echo $(/usr/bin/id -u)"], folder=Path("/"), env=env, log=log, user=100_004
    )
    while processes.is_alive(found):
        pass
    assert log.read_text().splitlines()[-1] == "100004"
    assert log.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("100000", "must be a range of user ids, such as 100000-165535, or none"),
        ("5-2", "write the lower id first"),
        ("0-70000", "the system's own users"),
        ("60000-70000", "must not contain 65534"),
        ("100000-4294967295", "must lie between"),
    ],
)
def test_an_impossible_range_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_user_ids(text)


@pytest.mark.skipif(sys.platform != "linux", reason="user ids are given on Linux only")
def test_ids_that_the_operator_named_and_cannot_be_used_are_an_error(
    unprivileged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "100000-100004")
    with pytest.raises(IsolationUnavailable, match="lacks the capabilities CAP_CHOWN, CAP_DAC_OVERRIDE"):
        UserIds(unprivileged).take(uuid4())
    monkeypatch.setenv(VARIABLE, "none")
    assert UserIds(unprivileged).take(uuid4()) is None
    monkeypatch.delenv(VARIABLE)
    assert "not root" in find_isolation(unprivileged).why_not


def test_a_range_counts_as_there_only_when_the_container_has_all_of_it() -> None:
    assert not process_isolation._is_mapped(range(100_000, 100_005), "0 1000 1\n1 100000 65536\n")
    assert process_isolation._is_mapped(range(1, 65_537), "0 1000 1\n1 100000 65536\n")


@pytest.mark.parametrize("call", ["apply", "claim"])
@pytest.mark.parametrize("brings", [{"claim_parameters": {"token": "t"}}, {"claim_parameter_names": ("token",)}])
async def test_secrets_of_claims_need_isolation_or_the_template_s_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, brings: dict[str, object]
) -> None:
    monkeypatch.setenv(VARIABLE, "none")
    names = {"name": "prebuild-1", "owner": "prebuilds", "organization": "acme", "template": "t", "preset": "small"}
    build = Provision.model_validate(
        WHO | {"workspace_id": uuid4(), "build_number": 1, "source": {"command": ["sleep", "1"]}, **names, **brings}
    )
    with pytest.raises(InvalidSource, match=r"bring token, .*say `isolation: none`") as refused:
        await getattr(ProcessProvisioner(tmp_path, DEPLOYMENT), call)(build, print)
    assert refused.value.details.keys() == {"source.isolation"}
    assert not list(tmp_path.iterdir()), "before anything is written"
