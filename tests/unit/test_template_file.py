"""Reading template files: every key of the contract, and the resulting values."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from prebuilds.api import InvalidInput
from prebuilds.planning.canaries import CanaryPolicy
from prebuilds.planning.content import VersionContent
from prebuilds.planning.rollouts import RolloutPolicy, Strategy
from prebuilds.planning.schedule import check_cron
from prebuilds.planning.sizing.choosing import Target
from prebuilds.planning.sizing.replay import Bounds
from prebuilds.planning.sizing.target import SizeTarget
from prebuilds.templates import parse_template_file
from prebuilds.templates.entries import OrganizationEntry, TemplateEntry
from prebuilds.templates.preset_entry import PresetEntry
from tests.template_files import CONTRACT, TEMPLATE, written


def only_preset(text: str) -> PresetEntry:
    return parse_template_file(text).organizations[0].templates[0].presets[0]


def test_every_key_of_the_contract_is_read() -> None:
    file = parse_template_file(CONTRACT)
    (organization,) = file.organizations
    (template,) = organization.templates
    (preset,) = template.presets
    assert organization.model_dump(exclude={"templates"}) == {
        "name": "acme",
        "prebuilds": False,
        "members": ["alice", "bob"],
        "members_exact": True,
        "limits": {"pool_members": 200, "workspaces": 500, "workspaces_per_member": 5, "claims_per_minute": 60},
    }
    assert template.model_dump(exclude={"presets"}) == {
        "name": "python",
        "provisioner": "process",
        "queue": "gpu",
        "build_timeout": timedelta(minutes=20),
        "ready_timeout": timedelta(seconds=90),
        "source": {"command": ["python3", "-m", "http.server", "{port}"], "ready": {"http": "/"}},
        "default_ttl": timedelta(hours=8),
        "drill": {
            "schedule": "0 3 * * *",
            "timezone": "Europe/Berlin",
            "command": ["true"],
            "http": None,
            "parameters": "DRILL_P",
            "timeout": timedelta(seconds=90),
        },
        "rollout": {"strategy": "surge", "max_surge": "10%", "max_unavailable": 1, "serve_old": True},
        "canary": {
            "percent": 10,
            "for": timedelta(minutes=30),
            "min_claims": 20,
            "max_failure": "5%",
            "slower_than": 2.0,
        },
    }
    canary = CanaryPolicy(10, timedelta(minutes=30), min_claims=20, max_failure=5, slower_than=2)
    assert RolloutPolicy.of_json(template.policy().rollout) == RolloutPolicy(Strategy.SURGE, "10%", 1, canary=canary)
    assert preset.model_dump() == {
        "name": "small",
        "parameters": {"size": "small"},
        "instances": 3,
        "expire_after": timedelta(hours=24),
        "default": True,
        "claim_parameters": ["token"],
        "timezone": "Europe/Berlin",
        "schedule": [
            {"cron": "* 8-18 * * 1-5", "instances": 10, "min": None},
            {"cron": "* 19-20 * * 1-5", "instances": None, "min": 4},
        ],
        "ready_by": True,
        "target": {
            "hit_rate": 0.99,
            "wait_p95": None,
            "min": 2,
            "max": 40,
            "max_idle": 20,
            "max_paused": 30,
            "paused_cost": 0.2,
            "mode": "act",
        },
        "cost_per_hour": 0.12,
        "standby": {"paused": 5},
        "max_concurrent": 10,
    }
    assert SizeTarget.of_json(preset.policy().target) == SizeTarget(
        Target(hit_rate=0.99, idle_max=20), Bounds(min=2, max=40), acts=True, max_paused=30, paused_cost=0.2
    )


def test_no_key_is_left_untested() -> None:
    for entry in (OrganizationEntry, TemplateEntry, PresetEntry):
        for key in entry.model_fields:
            assert f"{key}:" in CONTRACT


def test_optional_keys_have_defaults() -> None:
    template = parse_template_file(written()).organizations[0].templates[0]
    assert template.queue == "prebuilds-provisioner"
    assert (template.build_timeout, template.ready_timeout) == (timedelta(minutes=30), timedelta(minutes=5))
    assert (template.default_ttl, template.rollout) == (None, None)
    assert template.presets[0].model_dump(exclude={"name"}) == {
        "parameters": {},
        "instances": None,
        "expire_after": None,
        "default": False,
        "claim_parameters": [],
        "timezone": None,
        "schedule": [],
        "ready_by": False,
        "target": None,
        "cost_per_hour": None,
        "standby": {"paused": 0},
        "max_concurrent": None,
    }
    organization = parse_template_file("organizations: [{name: acme}]").organizations[0]
    assert (organization.prebuilds, organization.members_exact, organization.limits) == (None, None, None)


def test_examples_of_the_project_are_right() -> None:
    for example in (Path(__file__).parents[2] / "examples").glob("*.yaml"):
        assert parse_template_file(example.read_text()).organizations


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("small", "small"),
        ("3", "3"),
        ("3.10", "3.10"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("true", "true"),
        ("on", "on"),
        ("2024-01-31", "2024-01-31"),
        ("''", ""),
        ("'null'", "null"),
        ("|\n                two\n                lines", "two\nlines\n"),
        ("größer 🐍", "größer 🐍"),
    ],
)
def test_parameters_are_kept_as_they_are_written(value: str, text: str) -> None:
    file = CONTRACT.replace("parameters: {size: small}", f"parameters:\n              size: {value}")
    assert only_preset(file).parameters == {"size": text}


def test_parameters_given_in_python_become_text() -> None:
    entry = PresetEntry.model_validate({"name": "small", "parameters": {"a": 1, "b": 1.5, "c": True, "d": False}})
    assert entry.parameters == {"a": "1", "b": "1.5", "c": "true", "d": "false"}


def test_source_keeps_its_values() -> None:
    source = {"env": {"PORT": 8080, "RATIO": 0.5, "DEBUG": True, "NONE": None}, "command": ["sleep", "1"]}
    try:
        template = parse_template_file(written(template={"provisioner": "process", "source": source}))
    except InvalidInput as error:  # the driver may require text in env; its answer then contains our value
        assert set(error.details) <= {f"{TEMPLATE}.source.env.{key}" for key in source["env"]}  # noqa: PT017
    else:
        assert template.organizations[0].templates[0].source == source


def test_zero_limits_are_none() -> None:
    template = parse_template_file(written({"expire_after": "0s"}, {"default_ttl": 0})).organizations[0].templates[0]
    assert (template.default_ttl, template.presets[0].expire_after) == (None, None)


def test_anchors_and_merges_are_read() -> None:
    text = CONTRACT + (
        "          - &other {name: other, parameters: {version: 3.10}, instances: 1}\n"
        "          - {<<: *other, name: third}\n"
    )
    presets = parse_template_file(text).organizations[0].templates[0].presets
    assert [(preset.name, preset.parameters, preset.instances) for preset in presets[1:]] == [
        ("other", {"version": "3.10"}, 1),
        ("third", {"version": "3.10"}, 1),
    ]


@pytest.mark.parametrize(
    "cron",
    ["* * * * *", "* 8-18 * * 1-5", "* 0-6/2,22 1,15 */3 0", "* 9 * JAN-MAR mon-fri", "*  8  * * *", "* * 29 2 *"],
)
def test_right_windows_are_accepted(cron: str) -> None:
    check_cron(cron)
    schedule = [{"cron": cron, "instances": 0}]
    preset = only_preset(written({"instances": 1, "timezone": "UTC", "schedule": schedule}))
    assert preset.schedule[0].cron == " ".join(cron.split())


def test_reading_a_file_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary, here = tmp_path / "temporary", tmp_path / "here"
    for folder in (temporary, here):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    parse_template_file(CONTRACT)
    assert [*temporary.iterdir(), *here.iterdir()] == []


def test_policy_is_no_content() -> None:
    def content(text: str) -> VersionContent:
        return parse_template_file(text).organizations[0].templates[0].content()

    policy = {"instances": 9, "expire_after": "1h", "default": True, "claim_parameters": ["t"], "timezone": "UTC"}
    limits = {"default_ttl": "1h", "build_timeout": "1h", "ready_timeout": "1h"}
    assert content(written(policy, limits)) == content(written())
    assert content(written({"parameters": {"size": "small"}})) != content(written())
