"""The whole system through its command line and through the plain `temporal` one."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.e2e.dev_stack import DevStack, until


def test_a_newcomers_story(stack: DevStack) -> None:
    stack.apply("story", 2)
    stack.wait_whole("story")
    before = {w["id"] for w in stack.workspaces("story")}
    result = stack.ask(
        *("claim", "--preset", "story/python/small", "--owner", "alice", "--name", "dev", "--ttl", "8h", "--wait-ready")
    )
    assert result["workspace_id"] in before, "a workspace keeps its id when it is claimed"
    assert (result["source"], result["miss_reason"], result["initiator"]) == ("prebuilt", None, "alice")
    assert httpx.get(result["address"]).status_code == 200

    shown = stack.ask("workspaces", "show", "alice/dev")
    assert (shown["ready"], shown["prebuilt"], shown["ttl_seconds"]) == (True, True, 28800)
    assert [(b["stage"], b["initiator"]) for b in shown["builds"]] == [("create", "prebuilds"), ("claim", "alice")]
    claim_file = Path(shown["resources"]["folder"]).parent / "claim.json"
    assert json.loads(claim_file.read_text())["owner"] == "alice"

    stack.wait_whole("story")
    assert len(stack.workspaces("story")) == 3, "the pool is refilled"
    assert stack.cli("release", "alice/dev", "--wait").code == 0
    assert stack.cli("release", "alice/dev").code == 1, "it is gone"
    assert result["workspace_id"] not in stack.processes()


def test_the_same_file_changes_nothing_and_a_new_count_rebuilds_nothing(stack: DevStack) -> None:
    stack.apply("policy", 2)
    stack.wait_whole("policy")
    before = {w["id"] for w in stack.workspaces("policy")}
    path = str(stack.files / "policy.yaml")
    again = stack.ask("apply", "-f", path)
    assert (again["created"], again["updated"], again["versions"]) == ([], [], [])
    stack.apply("policy", 3)
    stack.wait_whole("policy")
    assert before < {w["id"] for w in stack.workspaces("policy")}
    stack.apply("policy", 1)
    stack.wait_whole("policy")
    left = {w["id"] for w in stack.workspaces("policy")}
    assert len(left) == 1
    assert stack.preset("policy")["version"] == 1


def test_a_plain_temporal_client_claims(stack: DevStack) -> None:
    stack.apply("plain", 1)
    stack.wait_whole("plain")
    claim = {
        "preset": "plain/python/small", "owner": "alice", "name": "plain-1",
        "initiator": "alice", "template": None, "parameters": {},
        "autostart_schedule": "CRON_TZ=Europe/Berlin 30 9 * * 1-5", "next_start_at": None, "ttl_seconds": 28800,
        "claim_parameters": {}, "on_empty": "fail", "wait_timeout_seconds": 300, "on_timeout": "fail",
    }  # fmt: skip
    output = stack.temporal(
        *("workflow", "execute", "--type", "ClaimWorkspace", "--task-queue", "prebuilds-claims"),
        *("--workflow-id", "claim-workspace/plain-claim", "--input", json.dumps(claim), "--output", "json"),
    )
    assert output.code == 0, output
    result = output.json["result"]
    assert (result["claim_id"], result["owner"], result["source"]) == ("plain-claim", "alice", "prebuilt")
    assert httpx.get(result["address"]).status_code == 200


def test_an_operators_signal_stops_the_loop_and_start_brings_it_back(stack: DevStack) -> None:
    output = stack.temporal(
        *("workflow", "signal", "--workflow-id", "prebuilds-orchestrator", "--name", "stop"),
        *("--input", '"maintenance window"'),
    )
    assert output.code == 0, output
    output = stack.temporal("workflow", "result", "--workflow-id", "prebuilds-orchestrator", "--output", "json")
    result = json.loads(output.out)
    assert result["status"] == "COMPLETED"
    assert (result["result"]["status"], result["result"]["cause"]) == ("stopped", "maintenance window")
    loop = stack.ask("status")["loop"]
    assert (loop["state"], loop["cause"]) == ("stopped", "maintenance window")
    assert stack.cli("stop").code == 0, "stopping what is stopped is nothing to do"
    assert stack.cli("reconcile").code == 1
    started = stack.ask("start")
    assert (started["changed"], started["state"], started["cause"]) == (True, "running", None)
    assert stack.ask("status")["loop"]["state"] == "running"
    again = stack.ask("start", "--interval", "2s")
    assert (again.keys(), again["changed"], again["interval_applied"]) == (started.keys(), False, True)
    assert stack.cli("reconcile", "--wait").code == 0


def test_pause_holds_the_pools_and_says_why(stack: DevStack) -> None:
    stack.apply("paused", 1)
    stack.wait_whole("paused")
    assert stack.ask("pause", "--reason", "upgrade")["changed"]
    try:
        assert not stack.ask("pause", "--reason", "again")["changed"]
        loop = stack.ask("status")["loop"]
        assert (loop["paused"], loop["paused_reason"]) == (True, "upgrade")
        stack.apply("paused", 3)
        assert stack.cli("reconcile", "--wait").code == 0
        row = stack.preset("paused")
        assert (row["held"], row["starting"], row["actual"]) == ("paused", 0, 1)
        claimed = stack.ask(
            *("claim", "--preset", "paused/python/small", "--owner", "alice", "--name", "in-pause", "--wait-ready")
        )
        assert claimed["source"] == "prebuilt", "claims and their builds go on"
    finally:
        assert stack.ask("resume")["changed"]
    stack.wait_whole("paused")


CLAIM = ("claim", "--preset", "refusals/python/small", "--owner", "alice", "--name", "good")

REFUSALS = [
    (("--preset", "refusals/python/none"), "PresetNotFound", "preset"),
    (("--preset", "nonsense"), "InvalidInput", "preset"),
    (("--owner", "zoe"), "OwnerNotFound", "owner"),
    (("--owner", "stranger"), "NotAMember", "owner"),
    (("--owner", "prebuilds"), "InvalidInput", "owner"),
    (("--initiator", "prebuilds"), "InvalidInput", "initiator"),
    (("--initiator", "zoe"), "InitiatorNotFound", "initiator"),
    (("--name", "taken"), "NameTaken", "name"),
    (("--name", "Not A Name"), "InvalidInput", "name"),
    (("--ttl", "-5m"), "InvalidInput", "ttl"),
    (("--autostart", "whenever"), "InvalidInput", "autostart_schedule"),
    (("--on-empty", "maybe"), "InvalidInput", "on_empty"),
    (("--claim-param", "token=x"), "InvalidInput", "claim_parameters.token"),
]


@pytest.fixture(scope="module")
def refusals(stack: DevStack) -> DevStack:
    stack.apply("refusals", 1)
    path = stack.files / "stranger.yaml"
    path.write_text("organizations: [{name: elsewhere, members: [stranger]}]")
    assert stack.cli("apply", "-f", str(path)).code == 0
    stack.wait_whole("refusals")
    stack.ask("claim", "--preset", "refusals/python/small", "--owner", "alice", "--name", "taken", "--wait-ready")
    stack.wait_whole("refusals")
    return stack


@pytest.mark.parametrize(("change", "kind", "field"), REFUSALS, ids=[" ".join(r[0]) for r in REFUSALS])
def test_a_bad_claim_gets_an_error_that_names_the_field_and_writes_nothing(
    refusals: DevStack, change: tuple[str, str], kind: str, field: str
) -> None:
    words = list(CLAIM)
    if change[0] in words:
        words[words.index(change[0]) + 1] = change[1]
    else:
        words += change
    before = refusals.workspaces("refusals")
    output = refusals.cli("--json", *words)
    assert (output.code, output.json["error"]["type"]) == (1, kind), output
    assert field in output.json["error"]["details"], output
    human = refusals.cli(*words)
    assert (human.code, human.out) == (1, "")
    assert human.err.startswith(f"error: {kind}: ")
    assert refusals.workspaces("refusals") == before


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"prest": "a/b/c"}, "prest"),
        ({"ttl_seconds": "soon"}, "ttl_seconds"),
        ({"parameters": ["x"]}, "parameters"),
        ({"template": "refusals/python"}, "input"),
        ({"name": None}, "name"),
        ("not an object", "input"),
    ],
)
def test_a_bad_payload_gets_an_error_that_names_the_field(refusals: DevStack, payload: object, field: str) -> None:
    good = {"preset": "refusals/python/small", "owner": "alice", "name": "good"}
    output = refusals.temporal(
        *("workflow", "execute", "--type", "ClaimWorkspace", "--task-queue", "prebuilds-claims", "--output", "json"),
        *("--workflow-id", "claim-workspace/bad", "--input"),
        json.dumps(good | payload if isinstance(payload, dict) else payload),
    )
    text = output.out + output.err
    assert "InvalidInput" in text, output
    assert field in text, output


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("organizations: [{name: x, membres: [a]}]", "membres"),
        ("organizations: [{name: Not Valid}]", "name"),
        ("organizations: [", "line"),
        (
            "organizations: [{name: x, templates: [{name: t, provisioner: process, "
            "source: {command: [no-such-program-here]}, presets: [{name: p}]}]}]",
            "source.command",
        ),
        (
            "organizations: [{name: x, templates: [{name: t, provisioner: nope, source: {}, presets: [{name: p}]}]}]",
            "provisioner",
        ),
    ],
)
def test_a_bad_template_file_gets_an_error_with_the_path_of_the_field(stack: DevStack, text: str, field: str) -> None:
    path = stack.files / "bad.yaml"
    path.write_text(text)
    output = stack.cli("apply", "-f", str(path), "--json")
    assert (output.code, output.json["error"]["type"]) == (1, "InvalidInput"), output
    assert field in json.dumps(output.json["error"]), output


def test_exit_codes_and_where_json_may_stand(stack: DevStack, tmp_path: Path) -> None:
    assert stack.typed("claim").code == 2
    assert stack.typed("status", "--json").json["loop"]["state"] == "running"
    assert stack.cli("no-such-command").code == 2
    assert stack.cli("jobs", "cancel").code == 2
    keys = {"deployment_id", "loop", "presets"}
    assert stack.cli("--json", "status").json.keys() == stack.cli("status", "--json").json.keys() == keys
    away = stack.cli("status", "--json", PREBUILDS_STATE_DIR=str(tmp_path))
    assert (away.code, away.json["error"]["type"]) == (3, "StackUnreachable")
    nobody = stack.cli("status", PREBUILDS_DATABASE_URL="postgresql://nobody:secret@127.0.0.1:1/none")
    assert nobody.code == 3
    assert "secret" not in nobody.err
    bad = stack.cli("status", PREBUILDS_RECONCILE_INTERVAL="soon")
    assert bad.code == 1
    assert "PREBUILDS_RECONCILE_INTERVAL" in bad.err


def test_init_may_be_repeated(stack: DevStack) -> None:
    for command in ("init", "migrate"):
        assert stack.ask(command)["schema"] == stack.ask(command)["schema_before"]


def test_the_snapshot_is_json(stack: DevStack) -> None:
    stack.apply("snap", 1)
    found = stack.cli("snapshot").json
    assert {"taken_at", "paused", "presets"} <= found.keys()
    assert any(p["preset"]["organization"] == "snap" for p in found["presets"])


def test_a_second_dev_on_the_same_folder_is_refused(stack: DevStack) -> None:
    output = stack.typed("dev")  # it handles signals, which only a main thread can
    assert output.code == 3
    assert "is in use by the process" in output.err


def test_details_and_status_in_the_ui(stack: DevStack) -> None:
    output = stack.temporal("workflow", "query", "-w", "prebuilds-orchestrator", "--type", "status", "--output", "json")
    assert output.code == 0, output
    assert "running" in output.out
    until(lambda: "Running: " in stack.temporal("workflow", "metadata", "-w", "prebuilds-orchestrator").out, "details")
