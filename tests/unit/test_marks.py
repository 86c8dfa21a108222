"""The calls that a claim's mark allows, and the owner of a state folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from prebuilds.provisioners.base import OwnedByAnother, Provision
from prebuilds.provisioners.kit.marks import (
    MARK_FILE,
    UNREADABLE,
    Mark,
    check_deployment,
    check_mark,
    leave_mark,
    mark_of,
    must_leave_mark,
    read_inventory_fields,
    read_mark,
)
from prebuilds.provisioners.state_folder import StateFolderInUse, enter_state_dir, only_worker, read_deployment
from tests.identities import DEPLOYMENT, WHO

LONG = "a" * 116 + "@example.com"


def call(**changes: Any) -> Provision:
    known = WHO | {"workspace_id": UUID(int=7), "build_number": 2}
    known |= {"owner": "alice@example.com", "claimed": True, "claim_id": "job-7"}
    return Provision(
        name="dev",
        organization="acme",
        template="python",
        preset="small",
        source={},
        **known | changes,
    )


NOBODY = {"owner": "prebuilds", "claimed": False, "claim_id": None}


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        ({"build_number": 1}, True),  # a lower number is StaleBuild's business
        ({"build_number": 9, "epoch": uuid4()}, True),  # `prebuilds restored` begins an epoch, and claims stay
        ({"owner": "Alice@Example.com"}, True),
        ({"owner": "bob", "previous_owners": ["alice@example.com"]}, True),
        ({"owner": "bob"}, False),  # the same claim id again, in a restored database
        ({"claim_id": "job-8"}, False),
        ({"claim_id": None}, True),  # given back by a transfer, after a restore that has forgotten the claim
        ({"claim_id": "job-8", "previous_owners": ["bob"]}, True),  # the same, after another claim of it
        ({"claim_id": "job-8", "owner": "bob", "previous_owners": ["alice@example.com"]}, False),
        ({"claim_id": None, "owner": "bob"}, False),
        # Given back to alice as above; she transfers it to carol.
        ({"claim_id": None, "owner": "carol", "previous_owners": ["alice@example.com"]}, True),
        ({"claim_id": "job-8", "owner": "carol", "previous_owners": ["bob", "alice@example.com"]}, True),
        (NOBODY, False),
        (NOBODY | {"build_number": 9}, False),
        ({"claimed": False}, False),
        ({"deployment_id": uuid4()}, False),
        ({"workspace_id": uuid4()}, False),
    ],
)
def test_only_the_claim_that_left_the_mark_fits_it(changes: dict[str, Any], fits: bool) -> None:
    mark = mark_of(call())
    if fits:
        check_mark("container x", mark, call(**changes))
        return
    with pytest.raises(OwnedByAnother, match="left as it is") as refused:
        check_mark("container x", mark, call(**changes))
    assert refused.value.details["what"] == "container x"
    assert not refused.value.retryable


def test_a_refusal_says_whose_it_is() -> None:
    with pytest.raises(OwnedByAnother, match=r"given to alice@example\.com by claim job-7 in build 2") as refused:
        check_mark("container x", mark_of(call()), call(**NOBODY))
    assert refused.value.details == {
        "what": "container x",
        "deployment": str(DEPLOYMENT),
        "epoch": str(mark_of(call()).epoch),
        "owner": "alice@example.com",
        "claim_id": "job-7",
    }


def test_an_unmarked_object_belongs_to_no_deployment() -> None:
    check_deployment("volume x", str(DEPLOYMENT), DEPLOYMENT)
    with pytest.raises(OwnedByAnother, match="carries no deployment's mark"):
        check_deployment("volume x", None, DEPLOYMENT)
    with pytest.raises(OwnedByAnother, match=f"belongs to the deployment {UUID(int=1)}"):
        check_deployment("volume x", UUID(int=1), DEPLOYMENT)


def test_a_mark_is_left_once_and_replaced_by_a_transfer(tmp_path: Path) -> None:
    folder = tmp_path / "workspace"
    assert read_mark("x", folder) is None
    assert must_leave_mark(None, call())
    assert not must_leave_mark(None, call(**NOBODY))
    leave_mark(folder, mark_of(call(owner=LONG, claim_id="c" * 200)))
    mark = read_mark("x", folder)
    assert mark == mark_of(call(owner=LONG, claim_id="c" * 200))
    assert not must_leave_mark(mark, call(owner=LONG.upper(), build_number=5))
    assert must_leave_mark(mark, call(owner="bob", previous_owners=[LONG], build_number=5))
    assert (folder / MARK_FILE).stat().st_mode & 0o777 == 0o600
    assert read_inventory_fields(folder) == {"claimed_by": LONG, "claim_id": "c" * 200}


@pytest.mark.parametrize("text", ["", "{", '{"owner": "alice"}', "[]"])
def test_a_mark_that_cannot_be_read_fits_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / MARK_FILE).write_text(text)
    with pytest.raises(OwnedByAnother, match="cannot be read"):
        read_mark("folder x", tmp_path)
    assert read_inventory_fields(tmp_path) == {"claimed_by": UNREADABLE}


def test_a_mark_has_nothing_secret() -> None:
    assert set(Mark.model_fields) == {"deployment_id", "epoch", "workspace_id", "build_number", "owner", "claim_id"}


# --- The state folder ---


def test_a_state_folder_belongs_to_one_deployment(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    assert read_deployment(state_dir) is None
    enter_state_dir(state_dir, DEPLOYMENT)
    enter_state_dir(state_dir, DEPLOYMENT)
    assert read_deployment(state_dir) == DEPLOYMENT
    other = uuid4()
    with pytest.raises(OwnedByAnother, match="PREBUILDS_STATE_DIR") as refused:
        enter_state_dir(state_dir, other)
    assert str(DEPLOYMENT) in str(refused.value)
    assert str(other) in str(refused.value)
    assert read_deployment(state_dir) == DEPLOYMENT
    assert [path.name for path in state_dir.iterdir()] == ["deployment.json"]
    (state_dir / "deployment.json").write_text("{}")
    with pytest.raises(OwnedByAnother, match="cannot be read"):
        enter_state_dir(state_dir, DEPLOYMENT)


def test_a_second_worker_on_a_state_folder_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from prebuilds.provisioners.state_folder import only_worker\n"
        "with only_worker(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        message = f"process {first.pid} on .*PREBUILDS_STATE_DIR"
        with pytest.raises(StateFolderInUse, match=message) as refused, only_worker(tmp_path):
            raise AssertionError("two hold it")
        assert refused.value.details["pid"] == first.pid
        first.send_signal(signal.SIGKILL)
        first.wait()
        with only_worker(tmp_path):  # at once
            assert json.loads((tmp_path / "worker.lock").read_text())["pid"] == os.getpid()
