"""Wrong template files: every fault has its exact path, and all are reported at once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml

from prebuilds import provisioners
from prebuilds.api import InvalidInput
from prebuilds.templates import parse_template_file
from tests.template_files import CONTRACT, PRESET, TEMPLATE, problems, written


def with_window(**count: int) -> dict[str, Any]:
    return {"instances": 1, "timezone": "UTC", "schedule": [{"cron": "* 8 * * *", **count}]}


@pytest.mark.parametrize(
    ("preset", "field", "message"),
    [
        ({"name": ...}, ".name", "is required"),
        ({"name": "Small"}, ".name", "must be 1 to 32 lower-case"),
        ({"name": "a--b"}, ".name", "must be 1 to 32 lower-case"),
        ({"name": "a" * 33}, ".name", "must be 1 to 32 lower-case"),
        ({"name": 7}, ".name", "must be text; put it in quotes"),
        ({"sise": 1}, ".sise", "unknown key"),
        ({"instances": -1}, ".instances", "greater than or equal to 0"),
        ({"instances": 10_001}, ".instances", "less than or equal to 10000"),
        ({"instances": "3"}, ".instances", "must be a whole number"),
        ({"instances": 2.5}, ".instances", "must be a whole number"),
        ({"instances": True}, ".instances", "must be a whole number"),
        ({"expire_after": "1 day"}, ".expire_after", "must be a duration such as 90s"),
        ({"expire_after": -5}, ".expire_after", "must be between 0 and 365d"),
        ({"expire_after": "366d"}, ".expire_after", "must be between 0 and 365d"),
        ({"expire_after": True}, ".expire_after", "must be a duration such as 90s"),
        ({"expire_after": ["1h"]}, ".expire_after", "must be a duration such as 90s"),
        ({"default": "maybe"}, ".default", "must be true or false"),
        ({"default": 1}, ".default", "must be true or false"),
        ({"claim_parameters": "token"}, ".claim_parameters", "must be a list"),
        ({"claim_parameters": ["token", "token"]}, ".claim_parameters", "has token more than once"),
        ({"claim_parameters": ["a b"]}, ".claim_parameters[0]", "must be 1 to 64 letters"),
        ({"parameters": ["a"]}, ".parameters", "must be a mapping"),
        ({"parameters": {"a b": "x"}}, ".parameters.a b", "must be 1 to 64 letters"),
        ({"parameters": {"a=b": "x"}}, ".parameters.a=b", "must be 1 to 64 letters"),
        ({"parameters": {"size": None}}, ".parameters.size", "must be text, a number, true or false"),
        ({"parameters": {"size": ["small"]}}, ".parameters.size", "must be text, a number, true or false"),
        ({"parameters": {"size": "x" * 8193}}, ".parameters.size", "must be at most 8192 characters"),
        ({"parameters": {"size": "a\0b"}}, ".parameters.size", "remove U+0000"),
        ({"timezone": "Berlin"}, ".timezone", "must be the name of a time zone"),
        ({"timezone": "Europe"}, ".timezone", "must be the name of a time zone"),
        ({"timezone": "../UTC"}, ".timezone", "must be the name of a time zone"),
        ({"timezone": ""}, ".timezone", "must be the name of a time zone"),
        ({"timezone": "CET+1"}, ".timezone", "must be the name of a time zone"),
        ({"schedule": {"cron": "* * * * *"}}, ".schedule", "must be a list"),
        ({"instances": 1, "target": {"hit_rate": 0.9}}, ".target.max", "is required"),
        ({"instances": 1, "target": {"max": 3}}, ".target", "needs either hit_rate or wait_p95"),
        (
            {"instances": 1, "target": {"max": 3, "hit_rate": 0.9, "wait_p95": "5s"}},
            ".target",
            "needs either hit_rate or wait_p95",
        ),
        ({"instances": 1, "target": {"max": 3, "hit_rate": 1}}, ".target.hit_rate", "less than 1"),
        ({"instances": 1, "target": {"max": 3, "hit_rate": 0}}, ".target.hit_rate", "greater than 0"),
        ({"instances": 1, "target": {"max": 3, "hit_rate": "99%"}}, ".target.hit_rate", "must be a number"),
        ({"instances": 1, "target": {"max": 3, "wait_p95": 0}}, ".target.wait_p95", "must be more than 0"),
        ({"instances": 1, "target": {"max": 3, "min": 4, "hit_rate": 0.9}}, ".target", "min 4 is above max 3"),
        ({"instances": 1, "target": {"max": 3, "max_idle": 0, "hit_rate": 0.9}}, ".target.max_idle", "greater than 0"),
        (
            {"target": {"max": 3, "max_idle": math.inf, "hit_rate": 0.9}, "instances": 1},
            ".target.max_idle",
            "less than",
        ),
        ({"cost_per_hour": math.inf}, ".cost_per_hour", "less than"),
        (
            {"instances": 1, "target": {"max": 3, "max_paused": 0, "hit_rate": 0.9}},
            ".target.max_paused",
            "greater than",
        ),
        (
            {"instances": 1, "target": {"max": 3, "max_paused": 5, "hit_rate": 0.9}},
            "",
            "target.max_paused 5 needs standby.paused from 1 to 5",
        ),
        (
            {"instances": 1, "standby": {"paused": 6}, "target": {"max": 3, "max_paused": 5, "hit_rate": 0.9}},
            "",
            "target.max_paused 5 needs standby.paused from 1 to 5",
        ),
        (
            {"instances": 1, "target": {"max": 3, "paused_cost": 0.2, "hit_rate": 0.9}},
            ".target",
            "paused_cost needs max_paused",
        ),
        ({"instances": 1, "target": {"max": 3, "mode": "on", "hit_rate": 0.9}}, ".target.mode", "suggest"),
        ({"instances": 1, "target": {"max": 3, "hitrate": 0.9}}, ".target.hitrate", "unknown key"),
        ({"target": {"max": 3, "hit_rate": 0.9}}, "", "target needs instances"),
        ({"ready_by": True}, "", "ready_by needs a schedule"),
        (with_window(), ".schedule[0]", "needs either instances or min"),
        (with_window(instances=2, min=1), ".schedule[0]", "needs either instances or min"),
        (with_window(min=-1), ".schedule[0].min", "greater than or equal to 0"),
        (with_window(min=4) | {"target": {"max": 3, "hit_rate": 0.9}}, "", "schedule[0].min 4 is above target.max 3"),
        ({"ready_by": "yes"}, ".ready_by", "true or false"),
        ({"cost_per_hour": -1}, ".cost_per_hour", "greater than or equal to 0"),
        ({"max_concurrent": 0}, ".max_concurrent", "greater than or equal to 1"),
    ],
)
def test_wrong_preset_is_named_by_its_path(preset: dict[str, Any], field: str, message: str) -> None:
    found = problems(written(preset))
    name = preset.get("name", "small")
    path = f"{TEMPLATE}.presets[{name if isinstance(name, str) else 0}]{field}"
    assert path in found
    assert message in found[path]


@pytest.mark.parametrize(
    ("template", "field", "message"),
    [
        ({"provisioner": ...}, ".provisioner", "is required"),
        ({"provisioner": 3}, ".provisioner", "must be text"),
        ({"source": ...}, ".source", "is required"),
        ({"source": "main.tf"}, ".source", "must be a mapping"),
        ({"queue": ""}, ".queue", "must be 1 to 200 letters"),
        ({"queue": "a@b"}, ".queue", "must be 1 to 200 letters"),
        ({"queue": "prebuilds"}, ".queue", "prebuilds is not a provisioner queue"),
        ({"queue": "prebuilds-claims"}, ".queue", "prebuilds-claims is not a provisioner queue"),
        ({"queue": "gpu-people"}, ".queue", "must not end in -people"),
        ({"build_timeout": "0s"}, ".build_timeout", "must be more than 0"),
        ({"ready_timeout": 0}, ".ready_timeout", "must be more than 0"),
        ({"build_timeout": None}, ".build_timeout", "must be a duration such as 90s"),
        ({"default_ttl": "forever"}, ".default_ttl", "must be a duration such as 90s"),
        ({"presets": {"name": "small"}}, ".presets", "must be a list"),
        ({"presets": ["small"]}, ".presets[0]", "must be a mapping"),
        ({"preset": []}, ".preset", "unknown key"),
    ],
)
def test_wrong_template_is_named_by_its_path(template: dict[str, Any], field: str, message: str) -> None:
    found = problems(written(template=template))
    assert list(found) == [f"{TEMPLATE}{field}"]
    assert message in found[f"{TEMPLATE}{field}"]


@pytest.mark.parametrize(
    ("organization", "path", "message"),
    [
        ({"name": "Acme"}, "organizations[Acme].name", "must be 1 to 32 lower-case"),
        ({"name": ...}, "organizations[0].name", "is required"),
        ({"prebuilds": "off please"}, "organizations[acme].prebuilds", "must be true or false"),
        ({"members": ["alice", "prebuilds"]}, "organizations[acme].members[1]", "the system's own user"),
        ({"members": ["alice", "b b"]}, "organizations[acme].members[1]", "must be 1 to 128 visible characters"),
        ({"members": ["alice", "Alice"]}, "organizations[acme].members", "has Alice, alice more than once"),
        ({"members": ..., "members_exact": True}, "organizations[acme]", "members_exact: true needs members"),
        ({"members": "alice"}, "organizations[acme].members", "must be a list"),
        ({"users": []}, "organizations[acme].users", "unknown key"),
        ({"templates": None}, "organizations[acme].templates", "must be a list"),
    ],
)
def test_wrong_organization_is_named_by_its_path(organization: dict[str, Any], path: str, message: str) -> None:
    found = problems(written(organization=organization))
    assert list(found) == [path]
    assert message in found[path]


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("", "organizations", "the file is empty"),
        ("# nothing", "organizations", "the file is empty"),
        ("{}", "organizations", "is required"),
        ("organizations:", "organizations", "must be a list"),
        ("[]", "file", "must be a mapping with the key organizations"),
        ("acme", "file", "must be a mapping with the key organizations"),
        ("organizations: []\norgs: []", "orgs", "unknown key"),
        ("a: [", "file", "is not valid YAML at line 1, column 5"),
        ("a: 1\nb: c: d", "file", "is not valid YAML at line 2, column 5"),
        ("a:\n\t- b", "file", "is not valid YAML at line 2, column 1"),
        ("a: \x01", "file", "is not valid YAML at line 1, column 4"),
        ("a: *b", "file", "undefined alias 'b'"),
        ("a: 1\n---\nb: 2", "file", "is not valid YAML at line 2, column 1: expected a single document"),
        ("a: !!python/object/apply:os.system [x]", "file", "could not determine a constructor"),
        ("a: !!bool perhaps", "file", "has a value that cannot be read"),
        ("a: !!timestamp soon", "file", "has a value that cannot be read"),
        ("a: " + "9" * 5000, "file", "has a value that cannot be read"),
        ("[" * 5000, "file", "is nested too deeply"),
        ("#" * 1_000_001, "file", "is longer than 1000000 characters"),
    ],
)
def test_wrong_file_says_where(text: str, path: str, message: str) -> None:
    found = problems(text)
    assert list(found) == [path]
    assert message in found[path]


def test_keys_given_twice_are_refused_with_their_lines() -> None:
    text = CONTRACT.replace("            instances: 3\n", "            instances: 3\n            instances: 4\n")
    text = text.replace("{size: small}", "{size: small, on: 1, on: 2}")
    assert problems(text) == {
        f"{PRESET}.parameters.on": "is given twice, at lines 21 and 21; keep one",
        f"{PRESET}.instances": "is given twice, at lines 22 and 23; keep one",
    }


def test_names_used_twice_are_refused() -> None:
    preset = {"name": "small"}
    template = {
        "name": "python",
        "provisioner": "process",
        "source": {"command": ["sleep", "1"]},
        "presets": [preset] * 2,
    }
    organization = {"name": "acme", "templates": [template, template | {"presets": []}]}
    found = problems(yaml.safe_dump({"organizations": [organization, {"name": "acme"}, {"name": "other"}]}))
    message = "is used by an entry before; choose another name, or join the two"
    assert found == {
        "organizations[1].name": f"acme {message}",
        "organizations[0].templates[1].name": f"python {message}",
        "organizations[0].templates[0].presets[1].name": f"small {message}",
    }


def test_second_default_is_refused() -> None:
    presets = [{"name": name, "default": True} for name in ("small", "large", "huge")]
    found = problems(written(template={"presets": presets}))
    assert found == {
        f"{TEMPLATE}.presets[{name}].default": "small is the default already; a template has at most one"
        for name in ("large", "huge")
    }


def test_all_faults_are_reported_at_once() -> None:
    broken = {"name": "go", "provisioner": "process", "source": {"command": []}, "build_timeout": "soon"}
    wrong = {"instances": -1, "expire_after": "x", "timezone": "Nowhere", "schedule": [{"cron": "x", "instances": 1}]}
    text = yaml.safe_dump(
        {
            "organizations": [
                {"name": "acme", "members": ["prebuilds"], "templates": [broken]},
                {"name": "other", "templates": [{"name": "t", "presets": [{"name": "p", **wrong}]}]},
                {"name": "other"},
            ],
            "extra": 1,
        }
    )
    assert set(problems(text)) == {
        "extra",
        "organizations[acme].members[0]",
        "organizations[acme].templates[go].build_timeout",
        "organizations[acme].templates[go].source.command",
        "organizations[1].templates[t].provisioner",
        "organizations[1].templates[t].source",
        "organizations[1].templates[t].presets[p].instances",
        "organizations[1].templates[t].presets[p].expire_after",
        "organizations[1].templates[t].presets[p].timezone",
        "organizations[1].templates[t].presets[p].schedule[0].cron",
        "organizations[2].name",
    }


def test_unknown_provisioner_is_named() -> None:
    found = problems(written(template={"provisioner": "teleport"}))
    assert list(found) == [f"{TEMPLATE}.provisioner"]
    assert "teleport" in found[f"{TEMPLATE}.provisioner"]


def test_driver_answers_at_the_templates_path() -> None:
    found = problems(written(template={"source": {"command": "sleep 1"}}))
    assert list(found) == [f"{TEMPLATE}.source.command"]


@pytest.mark.parametrize(
    ("source", "path", "message"),
    [
        ("{command: [.nan]}", ".command[0]", "must be a finite number"),
        ("{env: {1: x}}", ".env.1", "the key must be text"),
        ("{a: !!binary aGk=}", ".a", "must be text, a number"),
        ("{a: !!set {x}}", ".a", "must be text, a number"),
        ('{a: ["x\\0y"]}', ".a[0]", "remove U+0000"),
        ('{a: "\\ud800"}', ".a", "half a surrogate pair"),
        ("&a {a: *a}", "", "contains itself"),
    ],
)
def test_source_that_json_cannot_keep_is_refused(source: str, path: str, message: str) -> None:
    text = CONTRACT.replace('{command: ["python3", "-m", "http.server", "{port}"], ready: {http: "/"}}', source)
    found = problems(text)
    assert list(found) == [f"{TEMPLATE}.source{path}"]
    assert message in found[f"{TEMPLATE}.source{path}"]


class Failing:
    """A driver that fails in every call."""

    def validate(self, source: dict[str, Any]) -> None:
        raise KeyError("image")

    def hands_over(self, source: dict[str, Any]) -> bool:
        raise KeyError("image")


def test_a_driver_failing_on_a_source_is_reported_at_the_sources_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provisioners, "load", lambda *_: Failing())
    assert provisioners.hands_over("odd", {}), "the worker that has the driver is called"
    assert _problems_of_odd() == {".source": "the provisioner odd has failed while it checked it: KeyError: 'image'"}


def test_a_driver_that_cannot_be_loaded_is_reported_at_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> Failing:
        raise ZeroDivisionError("no engine")

    monkeypatch.setattr(provisioners, "load", load)
    message = "cannot be loaded here (ZeroDivisionError: no engine); install what it needs"
    assert _problems_of_odd() == {".provisioner": message}


def _problems_of_odd() -> dict[str, Any]:
    """Return the faults of a template of the provisioner odd by their path in the template."""
    text = "organizations: [{name: acme, templates: [{name: python, provisioner: odd, source: {}}]}]"
    with pytest.raises(InvalidInput) as refused:
        parse_template_file(text)
    place = "organizations[acme].templates[python]"
    return {path.removeprefix(place): message for path, message in refused.value.details.items()}


class Runs:
    """A driver that accepts every source, and cannot pause."""

    def validate(self, source: dict[str, Any]) -> None: ...

    def hands_over(self, source: dict[str, Any]) -> bool:
        return True


class PausesSome(Runs):
    def pauses(self, source: dict[str, Any]) -> bool:
        return bool(source)

    async def pause(self, *_: Any) -> None: ...

    async def resume(self, *_: Any) -> None: ...


@pytest.mark.parametrize(
    ("driver", "preset", "message"),
    [
        (Runs, "standby: {paused: 1}", "the provisioner odd cannot pause; leave it out"),
        (PausesSome, "standby: {paused: 1}", "the provisioner odd cannot pause what this source makes; leave it out"),
        (Runs, "standby: {paused: 0}", None),
        (PausesSome, "standby: {paused: -1}", "must be greater than or equal to 0"),
    ],
)
def test_a_standby_is_refused_where_the_driver_cannot_pause(
    driver: Any, preset: str, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisioners, "load", lambda *_: driver())
    presets = f"[{{name: small, instances: 0, {preset}}}]"
    text = f"organizations: [{{name: a, templates: [{{name: t, provisioner: odd, source: {{}}, presets: {presets}}}]}}]"
    if message is None:
        parse_template_file(text)
        return
    with pytest.raises(InvalidInput) as refused:
        parse_template_file(text)
    [(path, problem)] = refused.value.details.items()
    assert path.startswith("organizations[a].templates[t].presets[small].standby")
    assert message in problem
