"""Operators' commands around pools on a running stack: each one, repeated, and by mistake."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import pytest

from prebuilds.client import PrebuildsClient
from prebuilds.payloads import OperatorRequest
from tests.e2e.dev_stack import DevStack, until

QUICK = {"command": ["sleep", "infinity"], "ready": None}
CLOCK = r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d[+-]\d\d:\d\d"
"""A time of day, with the date when it is not today's: a test may run at midnight."""
FAILING = {"command": ["false"], "ready": {"file": "never"}}
PRESET_KEYS = {
    *("preset_id", "organization", "template", "version", "preset", "active", "instances", "expire_after_seconds"),
    *("default", "parameters", "claim_parameters", "timezone", "schedule", "last_invalidated_at", "limit_reset_at"),
    *("ready", "starting", "estimated_wait_seconds", "target", "size", "cost_per_hour", "ready_by"),
    *("head_start_seconds", "max_concurrent"),
}
TEMPLATE_KEYS = {
    *("id", "organization", "template", "provisioner", "queue", "version", "deprecated", "presets", "workspaces"),
}
TEMPLATE_CHANGE_KEYS = {"id", "template", "deprecated", "deleted", "changed"}
EXPLAIN_PRESET_KEYS = {
    *("preset", "preset_id", "at", "desired", "window", "base", "settings_recorded", "held", "held_until", "events"),
    *("next", "early", "sized"),
}
EXPLAIN_CLAIM_KEYS = {
    *("claim_id", "outcome", "miss_reason", "workspace_id", "preset_id", "created_at", "completed_at", "events"),
    *("position", "deadline", "error"),
}
EVENT_KEYS = {"at", "kind", "actor", "data"}


def ids(rows: list[dict[str, Any]]) -> set[str]:
    return {row["id"] for row in rows}


def pooled(stack: DevStack, organization: str) -> set[str]:
    return ids([w for w in stack.workspaces(organization) if w["owner"] == "prebuilds"])


def claim(stack: DevStack, organization: str, name: str, *more: str) -> Any:
    words = ("claim", "--preset", f"{organization}/python/small", "--owner", "alice", "--name", name)
    return stack.ask(*words, "--wait-ready", *more)


def test_a_template_applied_after_its_deletion_is_a_new_template(stack: DevStack) -> None:
    stack.apply("anew", 2, **QUICK)
    stack.wait_whole("anew")
    old, before = stack.preset("anew"), pooled(stack, "anew")
    taken = claim(stack, "anew", "stays")
    for changed in (True, False):
        done = stack.ask("templates", "delete", "anew/python")
        assert done.keys() == TEMPLATE_CHANGE_KEYS
        assert (done["template"], done["deleted"], done["changed"]) == ("anew/python", True, changed)
    refused = stack.cli("--json", "claim", "--preset", old["preset_id"], "--owner", "alice", "--name", "late")
    assert (refused.code, refused.json["error"]["type"]) == (1, "TemplateNotFound")
    until(lambda: not pooled(stack, "anew"), "the pool to be emptied")
    assert ids(stack.workspaces("anew")) == {taken["workspace_id"]}
    assert not [p for p in stack.ask("presets", "list")["presets"] if p["organization"] == "anew"]

    stack.apply("anew", 2, **QUICK)
    stack.wait_whole("anew")
    new = stack.preset("anew")
    assert (new["preset_id"] != old["preset_id"], new["version"]) == (True, 1)
    assert len(pooled(stack, "anew") - before) == 2, "a whole pool of its own"
    shown = stack.ask("workspaces", "show", "alice/stays")
    assert (shown["id"], shown["status"], shown["ready"]) == (taken["workspace_id"], "running", True)
    assert shown["id"] in stack.processes(), "and it lives on"
    events = [event["kind"] for event in stack.ask("explain", "preset", "anew/python/small")["events"]]
    assert events.count("version_activated") == 2
    assert "template_deleted" in events
    assert stack.cli("release", "alice/stays", "--wait").code == 0


def test_a_deprecated_template_rests(stack: DevStack) -> None:
    stack.apply("rests", 1, **QUICK)
    stack.wait_whole("rests")
    for changed in (True, False):
        done = stack.ask("templates", "deprecate", "rests/python")
        assert (done.keys(), done["deprecated"], done["changed"]) == (TEMPLATE_CHANGE_KEYS, True, changed)
    assert "already" in stack.cli("templates", "deprecate", "rests/python").out
    refused = stack.cli("--json", "claim", "--preset", "rests/python/small", "--owner", "alice", "--name", "late")
    assert (refused.code, refused.json["error"]["type"]) == (1, "TemplateUnavailable")
    until(lambda: not pooled(stack, "rests"), "the pool to be emptied")
    [template] = [t for t in stack.ask("templates", "list")["templates"] if t["organization"] == "rests"]
    assert template.keys() == TEMPLATE_KEYS
    assert (template["deprecated"], template["presets"], template["workspaces"]) == (True, 1, 0)
    for changed in (True, False):
        done = stack.ask("templates", "deprecate", "rests/python", "--undo")
        assert (done["deprecated"], done["changed"]) == (False, changed)
    stack.wait_whole("rests")


def test_an_invalidated_pool_is_replaced(stack: DevStack) -> None:
    stack.apply("stale", 2, **QUICK)
    stack.wait_whole("stale")
    before = pooled(stack, "stale")
    assert stack.ask("presets", "invalidate", "stale/python/small") == {"presets": 1, "prebuilds": 2}
    until(lambda: len(pooled(stack, "stale") - before) == 2 and not pooled(stack, "stale") & before, "another pool")
    [row] = stack.ask("presets", "list", "--template", "stale/python")["presets"]
    assert row.keys() == PRESET_KEYS
    assert (row["instances"], row["parameters"], row["schedule"]) == (2, {"size": "small"}, [])
    assert row["last_invalidated_at"] is not None
    stack.wait_whole("stale")
    again = stack.ask("presets", "invalidate", "--template", "stale/python")
    assert again == {"presets": 1, "prebuilds": 2}, "it is asked for anew, and done anew"
    stack.wait_whole("stale")
    output = stack.cli("explain", "preset", "stale/python/small")
    assert re.search(rf"^{CLOCK} deleted 2: expired 2$", output.out, re.MULTILINE), output
    assert re.search(rf"^{CLOCK} created 2: desired 2, actual 0, starting 0$", output.out, re.MULTILINE), output


def test_a_failing_pool_is_held_explained_resumed_kept_and_pruned(stack: DevStack) -> None:
    path = "fails/python/small"
    stack.apply("fails", 1, **FAILING)
    until(lambda: stack.preset("fails")["held"] == "backoff", "the hold")
    output = stack.cli("status").out
    assert re.search(rf"^{path} .* backoff until {CLOCK}$", output, re.MULTILINE), output
    assert f"last error of {path}, " in output
    explained = stack.ask("explain", "preset", path)
    assert (explained.keys(), explained["events"][0].keys()) == (EXPLAIN_PRESET_KEYS, EVENT_KEYS)
    assert (explained["preset"], explained["desired"], explained["base"], explained["held"]) == (path, 1, 1, "backoff")
    assert "creation_held" in [event["kind"] for event in explained["events"]]
    then = stack.ask("explain", "preset", explained["preset_id"], "--at", explained["at"])
    assert (then["at"], then["held"], then["events"]) == (explained["at"], None, explained["events"])
    before = stack.cli("explain", "preset", path, "--at", "2020-01-01T00:00:00Z").out.splitlines()[0]
    assert before.endswith("desired 1, base 1; the settings of that time are not recorded, these are the oldest")

    [first] = pooled(stack, "fails")
    lifted = stack.ask("presets", "resume", path)
    assert lifted == {"preset_id": explained["preset_id"], "preset": path, "lifted": "backoff"}
    until(lambda: stack.preset("fails")["failed"] == 2, "another try")
    assert stack.ask("presets", "resume", path)["lifted"] == "backoff"
    for changed in (True, False):
        kept = stack.ask("workspaces", "keep", first)
        assert kept == {"workspace_id": first, "kept": True, "changed": changed}
    until(lambda: stack.preset("fails")["failed"] == 3, "a third try")

    assert stack.ask("pause", "--reason", "nobody may try again")["changed"]
    try:
        prune = ("workspaces", "prune", "--failed", "--preset", path)
        assert stack.ask(*prune, "--dry-run") == {"pruned": 2, "kept": 1}
        assert len(pooled(stack, "fails")) == 3
        assert stack.ask(*prune) == {"pruned": 2, "kept": 1}, "paused or not"
        until(lambda: pooled(stack, "fails") == {first}, "the others to be gone")
        assert stack.ask(*prune) == {"pruned": 0, "kept": 1}
        assert stack.ask("workspaces", "keep", first, "--undo")["changed"]
        assert stack.ask(*prune) == {"pruned": 1, "kept": 0}
        until(lambda: not pooled(stack, "fails"), "the last one to be gone")
    finally:
        stack.ask("resume")
    assert stack.ask("templates", "delete", "fails/python")["changed"]


def test_resume_of_a_preset_that_is_not_held_changes_nothing(stack: DevStack) -> None:
    stack.apply("well", 0, **QUICK)
    output = stack.cli("presets", "resume", "well/python/small")
    assert output.code == 0
    assert "not held" in output.out
    assert stack.ask("presets", "resume", "well/python/small")["lifted"] is None
    assert stack.ask("presets", "list", "--template", "well/python")["presets"][0]["limit_reset_at"] is None
    for options in (("--failed",), ("--stopped",), ("--failed", "--stopped")):
        done = stack.ask("workspaces", "prune", *options, "--preset", "well/python/small")
        assert done == {"pruned": 0, "kept": 0}


def test_a_claim_is_explained(stack: DevStack) -> None:
    stack.apply("told", 1, **QUICK)
    stack.wait_whole("told")
    claimed = claim(stack, "told", "explained", "--claim-id", "told-1")
    explained = stack.ask("explain", "claim", "told-1")
    assert explained.keys() == EXPLAIN_CLAIM_KEYS
    assert (explained["outcome"], explained["miss_reason"]) == ("prebuilt", None)
    assert (explained["workspace_id"], explained["preset_id"]) == (claimed["workspace_id"], claimed["preset_id"])
    assert [event["kind"] for event in explained["events"]] == ["claim_prebuilt", "build_succeeded"]
    output = stack.cli("explain", "claim", "told-1").out
    assert "claimed by alice as alice/explained" in output
    unknown = stack.cli("--json", "explain", "claim", "never-was")
    assert (unknown.code, unknown.json["error"]["type"]) == (1, "InvalidInput")
    assert "claim_id" in unknown.json["error"]["details"]
    refused = stack.cli("--json", "workspaces", "keep", "alice/explained")
    assert (refused.code, refused.json["error"]["type"]) == (1, "InvalidInput")
    assert "release" in refused.json["error"]["details"]["workspace"]
    assert stack.cli("release", "alice/explained", "--wait").code == 0


def test_the_histories_of_a_running_deployment_replay(stack: DevStack) -> None:
    stack.apply("replayed", 1, **QUICK)
    stack.wait_whole("replayed")
    claimed = claim(stack, "replayed", "replayed", "--claim-id", "replayed-1")
    ids = ("prebuilds-orchestrator", "claim-workspace/replayed-1", f"workspace-build/{claimed['build_id']}")
    report = stack.ask("replay", *(word for id_ in ids for word in ("--workflow-id", id_)))
    assert [(one["workflow_id"], one["difference"]) for one in report["histories"]] == [(id_, None) for id_ in ids]
    unknown = stack.cli("--json", "replay", "--workflow-id", "never-was")
    assert (unknown.code, unknown.json["error"]["type"]) == (1, "InvalidInput")
    assert "no workflow never-was is known" in unknown.json["error"]["message"]
    assert stack.cli("release", "alice/replayed", "--wait").code == 0


def test_status_warns_of_a_queue_without_workers(stack: DevStack) -> None:
    queue = f"operating-{uuid4().hex[:8]}"
    stack.apply("unserved", 1, queue=queue, **QUICK)
    # Temporal is asked for a second and no more, which may be too short on a busy machine.
    until(lambda: stack.preset("unserved")["warnings"] == [f"no_pollers:{queue}"], "the warning")
    warning = f"warning for unserved/python/small: no_pollers:{queue}"
    until(lambda: warning in stack.cli("status").out, "the warning in words")
    away = stack.cli("--json", "status", TEMPORAL_ADDRESS="127.0.0.1:1")
    assert away.code == 0, "it answers without Temporal, too"
    assert "Temporal does not answer" in away.json["loop"]["note"]
    assert "unserved" in {row["organization"] for row in away.json["presets"]}
    assert stack.ask("templates", "delete", "unserved/python")["changed"]
    until(lambda: not pooled(stack, "unserved"), "the creations that nobody took up to be canceled")


def test_a_change_is_made_without_temporal_too(stack: DevStack) -> None:
    stack.apply("unreached", 0, **QUICK)
    for words in (("presets", "invalidate", "unreached/python/small"), ("templates", "delete", "unreached/python")):
        output = stack.cli(*words, TEMPORAL_ADDRESS="127.0.0.1:1")
        assert (output.code, output.err) == (0, ""), output


@pytest.mark.parametrize("words", [("start",), ("stop",), ("stop", "--wait"), ("reconcile",), ("reconcile", "--wait")])
@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999"])
def test_a_command_that_needs_temporal_reports_that_it_is_away(
    stack: DevStack, words: tuple[str, ...], address: str
) -> None:
    output = stack.cli("--json", *words, TEMPORAL_ADDRESS=address)
    assert (output.code, output.json["error"]["type"]) == (3, "StackUnreachable"), output
    assert "cannot reach Temporal" in output.json["error"]["message"]
    assert "TEMPORAL_ADDRESS" in output.json["error"]["remedy"]


def test_the_error_names_a_namespace_that_does_not_exist(stack: DevStack) -> None:
    at = {"TEMPORAL_ADDRESS": stack.facts["temporal_address"], "TEMPORAL_NAMESPACE": "nowhere"}
    for word in ("start", "stop"):
        output = stack.cli("--json", word, **at)
        assert (output.code, output.json["error"]["type"]) == (3, "StackUnreachable"), output
        assert "nowhere" in output.json["error"]["message"]
        assert "TEMPORAL_NAMESPACE" in output.json["error"]["remedy"]
    loop = stack.cli("--json", "status", **at).json["loop"]
    assert loop["state"] == "running", "nobody has stopped it"
    assert "Temporal does not answer" in loop["note"]


async def test_the_pages_of_a_status_join_up(stack: DevStack) -> None:
    for organization in ("page-a", "page-b", "page-c"):
        stack.apply(organization, 0, **QUICK)
    client = await PrebuildsClient.connect(stack.facts["temporal_address"])
    whole = await client.status()
    assert {"page-a", "page-b", "page-c"} <= {row.organization for row in whole.presets}
    in_pages = await client.status(limit=2)
    assert [row.preset_id for row in in_pages.presets] == [row.preset_id for row in whole.presets]
    assert in_pages.loop.state == "running"
    page = await client.temporal.execute_workflow(
        "OperatorRequest",
        OperatorRequest(action="status", limit=1),
        id=f"operator-request/{uuid4()}",
        task_queue="prebuilds",
    )
    assert page.keys() == {"deployment_id", "loop", "presets", "next"}
    assert (len(page["presets"]), page["next"] is not None) == (1, True)
    assert [str(row.preset_id) for row in whole.presets[:1]] == [page["presets"][0]["preset_id"]]


NONE = "00000000-0000-4000-8000-000000000000"

MISTAKES = [
    (("presets", "list", "--template", "mistakes/none"), 1, "TemplateNotFound", "template"),
    (("presets", "list", "--template", "nonsense"), 1, "InvalidInput", "template"),
    (("presets", "invalidate"), 2, "UsageError", None),
    (("presets", "invalidate", "mistakes/python/small", "--template", "mistakes/python"), 2, "UsageError", None),
    (("presets", "invalidate", "mistakes/python/none"), 1, "PresetNotFound", "preset"),
    (("presets", "invalidate", "nonsense"), 1, "InvalidInput", "preset"),
    (("presets", "invalidate", "--template", "mistakes/none"), 1, "TemplateNotFound", "template"),
    (("presets", "resume"), 2, "UsageError", None),
    (("presets", "resume", NONE), 1, "PresetNotFound", "preset"),
    (("templates", "deprecate", "mistakes/none"), 1, "TemplateNotFound", "template"),
    (("templates", "delete", "mistakes/none"), 1, "TemplateNotFound", "template"),
    (("templates", "delete", "Mistakes"), 1, "InvalidInput", "template"),
    (("templates", "delete"), 2, "UsageError", None),
    (("workspaces", "keep", "alice/none"), 1, "WorkspaceNotFound", None),
    (("workspaces", "keep", NONE), 1, "WorkspaceNotFound", None),
    (("workspaces", "keep", "nonsense"), 1, "InvalidInput", "workspace"),
    (("workspaces", "prune"), 2, "UsageError", None),
    (("workspaces", "prune", "--preset", "mistakes/python/small"), 2, "UsageError", None),
    (("workspaces", "prune", "--failed", "--preset", "mistakes/python/none"), 1, "PresetNotFound", "preset"),
    (("explain", "preset", "mistakes/python/none"), 1, "PresetNotFound", "preset"),
    (("explain", "preset", "mistakes/python/small", "--at", "yesterday"), 1, "InvalidInput", "at"),
    (("explain", "preset", "mistakes/python/small", "--at", "2026-03-02T09:14:00"), 1, "InvalidInput", "at"),
    (("explain", "preset", "mistakes/python/small", "--at", "0001-01-01T00:00:00+14:00"), 1, "InvalidInput", "at"),
    (("explain", "claim", ""), 1, "InvalidInput", "claim_id"),
    (("explain", "claim", "\udcff"), 1, "InvalidInput", "claim_id"),
    (("explain", "nothing"), 2, None, None),
    (("start", "--interval", "0"), 1, "InvalidInput", "interval"),
    (("start", "--interval", "2d"), 1, "InvalidInput", "interval"),
    (("start", "--interval", "soon"), 1, "InvalidInput", "interval"),
    (("reconcile", "--preset", "mistakes/python/none"), 1, "PresetNotFound", "preset"),
    (("presets", "lint", "mistakes/python/none"), 1, "PresetNotFound", None),
    (("presets", "lint", "a" * 2000), 1, "InvalidInput", "preset"),
    (("presets", "lint", "\udcff"), 1, "InvalidInput", "preset"),
]


@pytest.fixture(scope="module")
def mistakes(stack: DevStack) -> DevStack:
    stack.apply("mistakes", 0, **QUICK)
    return stack


@pytest.mark.parametrize(("words", "code", "kind", "field"), MISTAKES, ids=[" ".join(m[0])[:80] for m in MISTAKES])
def test_a_mistake_is_named_and_changes_nothing(
    mistakes: DevStack, words: tuple[str, ...], code: int, kind: str | None, field: str | None
) -> None:
    def defined() -> list[Any]:
        templates = mistakes.ask("templates", "list")["templates"]
        own = [template for template in templates if template["organization"] == "mistakes"]
        return [*own, *mistakes.ask("presets", "list", "--template", "mistakes/python")["presets"]]

    before = defined()
    output = mistakes.cli("--json", *words)
    assert output.code == code, output
    if kind is not None:
        assert output.json["error"]["type"] == kind, output
    if field is not None:
        assert field in output.json["error"]["details"], output
    human = mistakes.cli(*words)
    assert (human.code, human.err.startswith(f"error: {kind}: ") or kind is None) == (code, True), human
    assert defined() == before
