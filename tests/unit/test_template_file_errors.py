"""Wrong template files: the exact path of all that can be wrong, and all of it at once."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from prebuilds import provisioners
from prebuilds.api import InvalidInput
from prebuilds.templates import parse_template_file
from tests.template_files import CONTRACT, PRESET, TEMPLATE, merged, problems, written


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
        ({"instances": 1, "target": {"max": 3, "mode": "on", "hit_rate": 0.9}}, ".target.mode", "suggest"),
        ({"instances": 1, "target": {"max": 3, "hitrate": 0.9}}, ".target.hitrate", "unknown key"),
        ({"target": {"max": 3, "hit_rate": 0.9}}, "", "target needs instances"),
        ({"cost_per_hour": -1}, ".cost_per_hour", "greater than or equal to 0"),
    ],
)
def test_wrong_preset_is_named_by_its_path(preset: dict[str, Any], field: str, message: str) -> None:
    found = problems(written(preset))
    name = preset.get("name", "small")
    path = f"{TEMPLATE}.presets[{name if isinstance(name, str) else 0}]{field}"
    assert path in found
    assert message in found[path]


@pytest.mark.parametrize(
    ("window", "field", "message"),
    [
        ({"cron": "* 8-18 * *"}, ".cron", "must have five fields"),
        ({"cron": "0 * 8-18 * * 1-5"}, ".cron", "must have five fields"),
        ({"cron": ""}, ".cron", "must have five fields"),
        ({"cron": "@daily"}, ".cron", "must have five fields"),
        ({"cron": "0 8-18 * * 1-5"}, ".cron", "minute must be *"),
        ({"cron": "*/5 8-18 * * 1-5"}, ".cron", "minute must be *"),
        ({"cron": "* 8-18 * * 7"}, ".cron", "7 is not used"),
        ({"cron": "* 8-18 * * 5-7"}, ".cron", "7 is not used"),
        ({"cron": "* 8-18 * * 1,7"}, ".cron", "7 is not used"),
        ({"cron": "* 24 * * *"}, ".cron", "hour is out of range"),
        ({"cron": "* * 0 * *"}, ".cron", "day of month is out of range"),
        ({"cron": "* * * 13 *"}, ".cron", "month is out of range"),
        ({"cron": "* * 30 2 *"}, ".cron", "no such day exists"),
        ({"cron": "* 18-8 * * *"}, ".cron", "hour 18-8 ends before it begins; write 18-23,0-8"),
        ({"cron": "* * * * FRI-MON"}, ".cron", "day of week FRI-MON ends before it begins; write 5-6,0-1"),
        ({"cron": "* 23-0 * * *"}, ".cron", "hour 23-0 ends before it begins; write 23,0"),
        ({"cron": "TZ=Europe/Berlin * 8 * * *"}, ".cron", "write timezone: Europe/Berlin there"),
        ({"cron": "CRON_TZ=Europe/Berlin * 8 * * *"}, ".cron", "write timezone: Europe/Berlin there"),
        ({"cron": "0-58 8-18 * * 1-5"}, ".cron", "minute must be *"),
        ({"cron": "* */0 * * *"}, ".cron", "hour is out of range"),
        ({"cron": "* * L * *"}, ".cron", "day of month L cannot be read"),
        ({"cron": "* * * * 1#2"}, ".cron", "day of week 1#2 cannot be read"),
        ({"cron": "* * * * 5L"}, ".cron", "day of week 5L cannot be read"),
        ({"cron": "* 1/2 * * *"}, ".cron", "hour 1/2 cannot be read"),
        ({"cron": "* 1-1/2 * * *"}, ".cron", "hour 1-1/2 cannot be read"),
        ({"cron": 5}, ".cron", "must be text; put it in quotes"),
        ({"instances": -1}, ".instances", "greater than or equal to 0"),
        ({"instances": ...}, ".instances", "is required"),
        ({"cron": ...}, ".cron", "is required"),
        ({"name": "day"}, ".name", "unknown key"),
    ],
)
def test_wrong_window_is_named_by_its_path(window: dict[str, Any], field: str, message: str) -> None:
    schedule = [merged({"cron": "* 8-18 * * 1-5", "instances": 10}, window)]
    found = problems(written({"instances": 1, "timezone": "UTC", "schedule": schedule}))
    (path,) = found
    assert path.startswith(f"{PRESET}.schedule[")
    assert path.endswith(f"]{field}")
    assert message in found[path]


def test_schedule_needs_a_time_zone_and_a_base() -> None:
    found = problems(written({"schedule": [{"cron": "* 8 * * *", "instances": 1}]}))
    assert found == {
        f"{PRESET}.timezone": "is required with a schedule, such as Europe/Berlin",
        f"{PRESET}.instances": "is required with a schedule: how many outside its windows; may be 0",
    }


def scheduled(timezone: object, *crons: object) -> str:
    schedule = [cron if isinstance(cron, dict) else {"cron": cron, "instances": 1} for cron in crons]
    return written({"instances": 1, "timezone": timezone, "schedule": schedule})


def test_each_window_that_overlaps_one_before_is_named_with_when() -> None:
    # On 29 February, which is a fact of the calendar and years ahead.
    found = problems(scheduled("Europe/Berlin", "* 8-18  29 2 *", "* 3 * * *", "* 18-20 29 2 *", "* 2-9 29 FEB *"))
    assert list(found) == [f"{PRESET}.schedule[2].cron", f"{PRESET}.schedule[3].cron"]
    words = (
        r"overlaps schedule\[0\] \(\* 8-18 29 2 \*\), for the first time at 20\d\d-02-29T{}:00\+01:00 "
        r"\(Europe/Berlin\); windows must not overlap"
    )
    for message, hour in zip(found.values(), ("18", "08"), strict=True):
        assert re.fullmatch(words.format(hour), message)


def test_an_overlap_is_told_from_now_on() -> None:
    message = problems(scheduled("UTC", "* * * * *", "* * * * *"))[f"{PRESET}.schedule[1].cron"]
    told = re.search(r"first time at (\S+) \(UTC\)", message)
    assert told is not None
    assert timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(told[1]) < timedelta(minutes=5)


def test_an_overlap_that_was_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is searched when a stored schedule is read: else this one would be applied, and then never used."""
    skipped_since_2007 = "* 2 8-14 3 */7"
    text = scheduled("America/New_York", skipped_since_2007, skipped_since_2007)
    assert parse_template_file(text)
    monkeypatch.setattr("prebuilds.templates.checks.SEARCHED_FROM", datetime(2000, 1, 1, tzinfo=UTC))
    assert "first time at 2000-03-12T02:00-05:00" in problems(text)[f"{PRESET}.schedule[1].cron"]


def test_windows_that_meet_only_in_an_hour_that_is_always_skipped_are_accepted() -> None:
    last_sunday_of_march = "* 2 25-31 3 */7"
    assert parse_template_file(scheduled("Europe/Berlin", last_sunday_of_march, "* 2 * * *"))
    assert list(problems(scheduled("UTC", last_sunday_of_march, "* 2 * * *"))) == [f"{PRESET}.schedule[1].cron"]


@pytest.mark.parametrize(
    ("timezone", "crons", "wrong"),
    [
        ("UTC", ["* 8 * * *", 5, "x", {"cron": "* 8 * * *", "instances": -1}], ["[1].cron", "[2].cron", "[3].cron"]),
        ("UTC", ["* 8 * * *", {"instances": 1}, {}, "* 8 * * *"], ["[1].cron", "[2].cron", "[3].cron"]),
        ("UTC", ["* 24 * * *", "* 24 * * *"], ["[0].cron", "[1].cron"]),
    ],
)
def test_overlaps_are_told_beside_what_else_is_wrong(timezone: str, crons: list[object], wrong: list[str]) -> None:
    found = problems(scheduled(timezone, *crons))
    assert {path for path in found if path.endswith("cron")} == {f"{PRESET}.schedule{path}" for path in wrong}


@pytest.mark.parametrize("timezone", ["Nowhere", 7, None])
def test_overlaps_are_looked_for_only_in_a_zone(timezone: object) -> None:
    assert list(problems(scheduled(timezone, "* 8 * * *", "* 8 * * *"))) == [f"{PRESET}.timezone"]


def test_windows_are_bounded() -> None:
    weekly = [f"* {hour} * * {day}" for day in range(7) for hour in range(24)]
    assert parse_template_file(scheduled("UTC", *weekly))
    found = problems(scheduled("UTC", *weekly, *weekly))
    assert found == {f"{PRESET}.schedule": "has 336 windows; at most 200"}


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
        f"{PRESET}.parameters.on": "is given twice, at lines 17 and 17; keep one",
        f"{PRESET}.instances": "is given twice, at lines 18 and 19; keep one",
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


def test_all_that_is_wrong_is_told_at_once() -> None:
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


def test_a_driver_that_fails_while_it_checks_a_source_is_told_at_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provisioners, "load", lambda *_: Failing())
    assert provisioners.hands_over("odd", {}), "so that the worker which has it is called"
    assert _problems_of_odd() == {".source": "the provisioner odd has failed while it checked it: KeyError: 'image'"}


def test_a_driver_that_cannot_be_loaded_is_told_at_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> Failing:
        raise ZeroDivisionError("no engine")

    monkeypatch.setattr(provisioners, "load", load)
    message = "cannot be loaded here (ZeroDivisionError: no engine); install what it needs"
    assert _problems_of_odd() == {".provisioner": message}


def _problems_of_odd() -> dict[str, Any]:
    """What is wrong with a template of the provisioner odd, by the place in the template."""
    text = "organizations: [{name: acme, templates: [{name: python, provisioner: odd, source: {}}]}]"
    with pytest.raises(InvalidInput) as refused:
        parse_template_file(text)
    place = "organizations[acme].templates[python]"
    return {path.removeprefix(place): message for path, message in refused.value.details.items()}
