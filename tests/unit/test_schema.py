"""The output of `prebuilds schema` matches the parser of claims and template files."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from prebuilds.cli import run
from prebuilds.cli.schema import claim_schema, field_texts, templates_schema
from prebuilds.payloads import ClaimRequest
from prebuilds.templates.entries import OrganizationEntry, TemplateEntry
from prebuilds.templates.preset_entry import PresetEntry, WindowEntry
from prebuilds.vocabulary import parse_duration


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_the_command_prints_one_json_document(as_json: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", "claim", *as_json]) == 0
    assert json.loads(capsys.readouterr().out) == claim_schema()
    assert run(["schema", "templates", *as_json]) == 0
    assert json.loads(capsys.readouterr().out) == templates_schema()


def test_a_claim_has_its_fields_and_one_target() -> None:
    schema = claim_schema()
    assert schema["properties"].keys() == ClaimRequest.model_fields.keys()
    assert set(schema["required"]) == {"owner", "name"}
    assert schema["additionalProperties"] is False
    assert [one["required"] for one in schema["oneOf"]] == [["preset"], ["template"]]
    pattern = re.compile(schema["properties"]["name"]["pattern"])
    assert pattern.search("alice-dev")
    assert not pattern.search("Alice")


def test_a_template_file_has_durations_as_people_write_them() -> None:
    entry = templates_schema()["$defs"]["TemplateEntry"]["properties"]["build_timeout"]
    assert entry["default"] == "30m"
    pattern = re.compile(entry["anyOf"][0]["pattern"])
    for written in ("90s", "1h30m", "2d"):
        assert pattern.search(written)
        parse_duration(written)
    assert not pattern.search("soon")


@pytest.mark.parametrize("model", [ClaimRequest, WindowEntry, PresetEntry, TemplateEntry, OrganizationEntry])
def test_every_field_says_what_it_means(model: Any) -> None:
    unsaid = model.model_fields.keys() - field_texts(model).keys()
    assert unsaid <= {"templates", "presets"}, "lists of entries, which say it themselves"
