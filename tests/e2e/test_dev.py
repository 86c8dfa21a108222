"""The output of `prebuilds dev` for people and scripts, and what is true when it prints that."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import psutil
import pytest

from tests import host_driver
from tests.e2e.dev_stack import START_S, DevStack, TypedStack, until
from tests.unit.queries import OF_TEMPORAL

FACTS = {"temporal_address", "temporal_ui", "database_url", "deployment_id", "token_file", "metrics", "http", "pids"}
SERVE_ONCE_THEN_WHEN_TOLD = (
    'until test ! -e served || test -e "$2"; do sleep 0.05; done; touch served; '
    'exec python3 -m http.server "$1" --bind 127.0.0.1'
)
THIRDS = """
organizations:
  - name: thirds
    members: [alice]
    templates:
      - name: python
        provisioner: host-folder
        source: {{skeleton: {skeleton}}}
        presets:
          - {{name: small, instances: 1}}
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """A stack for this file alone, since its tests restart it."""
    path = host_driver.install(tmp_path_factory.mktemp("site"))
    stack = TypedStack(tmp_path_factory.mktemp("dev"), PREBUILDS_METRICS_PORT="0", PYTHONPATH=path)
    stack.start()
    yield stack
    assert stack.stop() == 0
    assert stack.processes() == {}


def test_the_first_start_prints_nothing_of_its_libraries(own: DevStack) -> None:
    assert "alembic" not in own.log.read_text()


def test_dev_prints_the_metrics_address_of_each_worker(own: DevStack) -> None:
    role_by_url = dict(re.findall(r"^metrics +(\S+) +\((\w+)\)$", own.log.read_text(), re.MULTILINE))
    assert set(role_by_url.values()) == {"claims", "control", "http", "provisioner"}
    assert {role: url for url, role in role_by_url.items()} == own.facts["metrics"]
    served = {role: httpx.get(url) for url, role in role_by_url.items()}
    assert [answer.status_code for answer in served.values()] == [200] * 4
    exported = {line.split("{")[0] for line in served["control"].text.splitlines()}
    assert set(OF_TEMPORAL) <= exported, "dashboards read these names"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_files_with_secrets_are_private_and_the_servers_get_no_secrets(own: DevStack) -> None:
    pids = own.facts["pids"]
    for name in ("supervisor", "claims", "control", "provisioner"):
        limits = Path(f"/proc/{pids[name]}/limits").read_text()
        assert re.search(r"Max core file size +0 +0 ", limits), f"{name} has called close_to_others"
    for name in ("postgres", "temporal"):  # an exec makes these readable again
        assert not [word for word in psutil.Process(pids[name]).environ() if word.startswith("PREBUILDS_")]
    assert own.state_dir.stat().st_mode & 0o066 == 0
    assert {path.stat().st_mode & 0o066 for path in own.state_dir.iterdir() if path.name != "lock"} == {0}


def test_the_stack_has_a_token_of_its_own(own: DevStack) -> None:
    file = Path(own.facts["token_file"])
    assert file.stat().st_mode & 0o777 == 0o600
    [listed] = own.ask("tokens", "list")["tokens"]
    assert (listed["name"], listed["state"], listed["scopes"]) == ("local", "good", ["admin"])
    assert file.read_text().startswith(f"pbt_{UUID(listed['id']).hex}_")


def test_a_refusal_is_json_with_the_json_option(own: DevStack) -> None:
    output = own.typed("dev", "--json")
    assert (output.code, output.json["error"]["type"]) == (3, "StackUnreachable"), output
    assert "is in use by the process" in output.json["error"]["message"]


def test_restarted_workspaces_answer_before_anybody_can_claim_them(own: DevStack) -> None:
    may_answer, printed = own.files / "told", own.files / "printed.json"
    command = ["sh", "-c", SERVE_ONCE_THEN_WHEN_TOLD, "sh", "{port}", str(may_answer)]
    own.apply("back", 2, command=command)
    thirds = own.files / "thirds.yaml"
    thirds.write_text(THIRDS.format(skeleton=Path(host_driver.EXAMPLE, "folder_provisioner", "skeleton")))
    assert own.typed("apply", "-f", str(thirds)).code == 0
    own.wait_whole("back")
    own.wait_whole("thirds")
    before = {w["id"]: w["address"] for w in own.workspaces("back")}
    token = Path(own.facts["token_file"]).read_text()
    [third] = own.state_dir.glob("folders/*/*/running")
    assert own.stop() == 0
    assert {path.name for path in third.parent.iterdir()} >= {"suspended"}
    assert not third.exists(), "the third party's workspace has ended with the stack, too"

    own.begin("--json", out=printed)
    until(lambda: set(own.processes()) == set(before), "their processes to be started again", START_S, own.log)
    assert own.facts["pids"].keys() == {"supervisor", "postgres", "temporal"}, "nobody serves claims yet"
    until(third.with_name("waited").exists, "the third party's driver to be waited for", START_S, own.log)
    assert third.exists()
    may_answer.touch()
    until(lambda: printed.read_text().endswith("\n"), "prebuilds dev to be ready", START_S, own.log)
    assert [httpx.get(address).status_code for address in before.values()] == [200] * 2
    assert {w["id"]: w["address"] for w in own.workspaces("back")} == before

    [line] = printed.read_text().splitlines()
    assert json.loads(line).keys() == FACTS
    assert json.loads(line) == {key: own.facts[key] for key in FACTS}
    assert Path(own.facts["token_file"]).read_text() == token
    assert "restored 3 workspaces" in own.log.read_text()
    assert re.search("A driver cannot be loaded.*broken", own.log.read_text()), "and harms nobody"
    for [pid] in own.processes().values():
        os.kill(pid, signal.SIGKILL)
    children = psutil.Process(own.facts["pids"]["supervisor"]).children
    until(lambda: {child.pid for child in children()} <= set(own.facts["pids"].values()), "the dead to be reaped")
    assert own.stop() == 0
    assert printed.read_text() == f"{line}\n", "nothing else, to the end"


@pytest.mark.usefixtures("heard_interrupts")
def test_a_closed_terminal_ends_dev_as_ctrl_c_does(own: DevStack) -> None:
    assert own.stop() == 0  # unless the test before has stopped it
    terminal, inside = pty.openpty()
    own.process = subprocess.Popen(
        ["setsid", "--ctty", *own.program, "dev"], env=own.env, stdin=inside, stdout=inside, stderr=inside
    )
    os.close(inside)
    output, deadline = b"", time.monotonic() + START_S
    while b"\nready" not in output:
        assert time.monotonic() < deadline, output
        output += os.read(terminal, 4096)
    pids = own.facts["pids"].values()
    assert own.processes()
    os.close(terminal)
    assert own.process.wait(60) == 0
    assert own.processes() == {}
    assert not any(psutil.pid_exists(pid) for pid in pids)
