"""`prebuilds replay` reports whether this code follows a history, and where it first differs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prebuilds.cli import run
from prebuilds.replaying import WORKFLOWS
from tests.replay.cases import CASES
from tests.replay.stored import HISTORIES

BUILD = next(path for path in HISTORIES if path.name == "0005-succeeds-WorkspaceBuild.json.gz")
ONE = "eyJzdGF0dXMiOjF9"  # {"status": 1}
Command = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def replay(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")  # files need no Temporal

    def run_words(*words: str) -> tuple[int, dict[str, Any]]:
        code = run(["replay", "--json", *words])
        return code, json.loads(capsys.readouterr().out)

    return run_words


def changed(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> str:
    """Write a copy of the stored build with *change* applied to its events."""
    history = json.loads(gzip.decompress(BUILD.read_bytes()))
    change(history["events"])
    path.write_text(json.dumps(history))
    return str(path)


def test_the_command_replays_every_workflow_that_workers_run() -> None:
    assert {workflow.__name__ for workflow in WORKFLOWS} == CASES.keys()


def test_a_history_of_an_earlier_release_replays(replay: Command) -> None:
    code, report = replay("--from", str(BUILD))
    assert (code, report["ok"]) == (0, True)
    [one] = report["histories"]
    assert (one["workflow_type"], one["events"], one["difference"]) == ("WorkspaceBuild", 11, None)
    assert one["workflow_id"].startswith("workspace-build/")


def other_activity(events: list[dict[str, Any]]) -> None:
    events[4]["activityTaskScheduledEventAttributes"]["activityType"]["name"] = "make_it"


def other_end(events: list[dict[str, Any]]) -> None:
    payload = {"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": ONE}
    events[6]["activityTaskCompletedEventAttributes"]["result"] = {"payloads": [payload]}


def unknown_workflow(events: list[dict[str, Any]]) -> None:
    events[0]["workflowExecutionStartedEventAttributes"]["workflowType"]["name"] = "WorkspacePlan"


@pytest.mark.parametrize(
    ("change", "event_id", "event_type", "words"),
    [
        (other_activity, 5, "ActivityTaskScheduled", "'make_it' does not match activity type of activity command"),
        (other_end, 11, "WorkflowExecutionCompleted", "No command scheduled for event"),
        (unknown_workflow, 4, "WorkflowTaskCompleted", "Workflow class WorkspacePlan is not registered"),
    ],
)
def test_a_history_that_differs_is_named_with_its_first_other_event(
    replay: Command, tmp_path: Path, change: Callable[[Any], None], event_id: int, event_type: str, words: str
) -> None:
    file = changed(tmp_path / "history.json", change)
    code, report = replay("--from", str(BUILD), "--from", file)
    assert (code, report["ok"]) == (1, False)
    fine, other = report["histories"]
    assert fine["difference"] is None
    assert (other["difference"]["event_id"], other["difference"]["event_type"]) == (event_id, event_type)
    assert words in other["difference"]["message"]


@pytest.mark.parametrize(
    "content",
    [
        *("", "{}", '{"events": []}', "not JSON", '{"events": [{"eventId": "x"}]}'),
        pytest.param("[" * 100_000, id="too deep"),
        pytest.param('{"events": [{"eventId": "2", "workflowTaskScheduledEventAttributes": {}}]}', id="no beginning"),
    ],
)
def test_a_file_that_is_no_history_is_refused_by_name(replay: Command, tmp_path: Path, content: str) -> None:
    file = tmp_path / "no.json"
    file.write_text(content)
    code, answer = replay("--from", str(file))
    assert (code, answer["error"]["type"]) == (1, "InvalidInput")
    assert f"{file} is no workflow history" in answer["error"]["message"]


def test_nothing_to_replay_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["replay"]) == 2
    assert "--from FILE or --workflow-id ID" in capsys.readouterr().err
