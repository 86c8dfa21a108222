"""The alert rules fit what is exported, fire when they should, and lead to a runbook whose commands exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main

from prebuilds.cli.app import command_tree
from tests.unit.exported import exported
from tests.unit.queries import RULES, SCRAPED, faults, known_metrics, result_labels, rules

ROOT = Path(__file__).parents[2]
RUNBOOKS = (ROOT / "docs/runbooks.md").read_text()
ALERTS = [rule for rule in rules() if "alert" in rule]
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", RUNBOOKS, re.MULTILINE | re.DOTALL))


def promtool(*words: str | Path, text: str | None = None) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool here: apt-get install prometheus")
    done = subprocess.run([program, *words], input=text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_reads_the_rules() -> None:
    promtool("check", "rules", RULES)


@pytest.mark.parametrize("file", sorted(RULES.parent.glob("tests/*.yml")), ids=lambda file: file.stem)
def test_each_alert_fires_when_it_should_and_only_then(file: Path) -> None:
    promtool("test", "rules", file)


def test_each_alert_has_a_test() -> None:
    tests = "".join(file.read_text() for file in RULES.parent.glob("tests/*.yml"))
    assert [rule["alert"] for rule in ALERTS if f'alertname="{rule["alert"]}"' not in tests] == []


def test_prometheus_finds_no_fault_in_what_is_exported() -> None:
    for text in exported():
        promtool("check", "metrics", text=text)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_reads_metrics_and_labels_that_are_exported(rule: dict[str, Any]) -> None:
    assert faults(rule["expr"], known_metrics()) == []


def test_a_metric_or_label_that_is_not_exported_is_found() -> None:
    known = {"prebuilds_held": {"job", "reason"}}
    assert faults('max by (job) (prebuilds_held{reason="paused"}) > 0', known) == []
    assert faults("prebuilds_hold > 0", known) == ["no metric is called prebuilds_hold"]
    assert faults('prebuilds_held{cause="paused"}', known) == ["prebuilds_held has no label cause"]
    assert faults("max by (preset) (prebuilds_held)", known) == ["no metric here has the label preset"]
    with pytest.raises(ValueError, match="parenthesis"):
        faults("max by (job (prebuilds_held)", known)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert annotations["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"
    section = SECTIONS[rule["alert"]]
    assert all(f"**{part}**" in section for part in ("Means", "Look at", "Do"))
    kept = result_labels(rule["expr"]) or SCRAPED
    assert set(re.findall(r"\$labels\.(\w+)", annotations["summary"] + annotations["description"])) <= kept


def test_every_runbook_belongs_to_an_alert() -> None:
    assert set(SECTIONS) == {rule["alert"] for rule in ALERTS}


def test_links_within_the_runbooks_lead_somewhere() -> None:
    assert set(re.findall(r"\]\(#(\w+)\)", RUNBOOKS)) <= {name.lower() for name in SECTIONS}


@pytest.mark.parametrize("line", sorted(set(re.findall(r"`(prebuilds(?: [^`]+)?)`", RUNBOOKS))))
def test_a_command_of_the_runbooks_exists(line: str) -> None:
    words = line.split()[1:]
    command: Any = typer.main.get_command(command_tree(words))
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        command = command.commands[words.pop(0)]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options
