"""The choice of a drill's preset, the reasons against a drill, its due time, and two misses in a row."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prebuilds.api import InvalidInput, NoClaimablePrebuiltWorkspaces, PrebuildsError, ProvisionFailed
from prebuilds.failures.crossing import application_error
from prebuilds.payloads import field_messages
from prebuilds.planning.drills import (
    SPARE_MIN,
    Candidate,
    DrillPolicy,
    Surroundings,
    choose_preset,
    is_stale,
    next_due,
    read_parameters,
    why_not_now,
)
from prebuilds.templates.drill_entry import DrillEntry
from workflows.drill_template import _stopped_by

NIGHT = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)
DAY = timedelta(days=1)
names = st.sampled_from(["a", "b", "c", "d", "e"])
candidates = st.lists(
    st.builds(
        Candidate,
        preset_id=st.just(UUID(int=1)),
        name=names,
        ready=st.integers(0, SPARE_MIN),
        held=st.booleans(),
        drilled_at=st.none() | st.integers(0, 5).map(lambda n: NIGHT + n * DAY),
    ),
    unique_by=lambda one: one.name,
)


@given(candidates)
def test_only_a_preset_that_can_spare_one_is_chosen(found: list[Candidate]) -> None:
    chosen = choose_preset(found)
    able = [one for one in found if one.ready >= SPARE_MIN and not one.held]
    if isinstance(chosen, str):
        assert not able
        return
    assert chosen in able
    assert all(
        one.drilled_at is not None and one.drilled_at >= (chosen.drilled_at or one.drilled_at)
        for one in able
        if chosen.drilled_at is not None or one.drilled_at is not None
    )


def test_presets_take_turns() -> None:
    drilled: dict[str, datetime] = {}
    order = []
    for night in range(6):
        found = [Candidate(UUID(int=1), name, SPARE_MIN, False, drilled.get(name)) for name in "abc"]
        chosen = choose_preset(found)
        assert isinstance(chosen, Candidate)
        drilled[chosen.name] = NIGHT + night * DAY
        order.append(chosen.name)
    assert order == ["a", "b", "c"] * 2


@pytest.mark.parametrize("field", [field.name for field in fields(Surroundings)])
def test_each_reason_against_a_drill_is_reported(field: str) -> None:
    assert why_not_now(Surroundings()) is None
    assert why_not_now(Surroundings(**{field: not getattr(Surroundings(), field)}))


def test_a_drill_is_due_by_its_own_clock() -> None:
    winter = next_due("0 3 * * *", "Europe/Berlin", NIGHT)
    assert winter == datetime(2026, 3, 3, 2, 0, tzinfo=UTC)
    assert next_due("*/5 * * * *", "UTC", NIGHT) == NIGHT + timedelta(minutes=5)


@pytest.mark.parametrize(
    ("after", "stale"),
    [(DAY, False), (2 * DAY, False), (2 * DAY + timedelta(minutes=59), False), (2 * DAY + timedelta(hours=1), True)],
)
def test_two_times_without_a_success_are_stale(after: timedelta, stale: bool) -> None:
    soon = timedelta(seconds=20)
    assert is_stale("0 3 * * *", "UTC", NIGHT - 30 * DAY, NIGHT + soon, NIGHT + after) is stale
    assert is_stale("0 3 * * *", "UTC", NIGHT + soon, None, NIGHT + after) is stale, "or since the schedule was set"
    assert is_stale("0 3 * * *", "UTC", NIGHT + soon, NIGHT - 9 * DAY, NIGHT + after) is stale, "older successes"


def test_a_stored_policy_reads_as_it_was_written() -> None:
    entry = DrillEntry.model_validate(
        {
            "schedule": " 0  3 * * * ",
            "http": {"path": "/ok", "status": 204},
            "timeout": "90s",
            "parameters": "DRILL_PARAMETERS",
        }
    )
    assert DrillPolicy.of_json(entry.stored()) == DrillPolicy(
        cron="0 3 * * *", http_path="/ok", http_status=204, timeout=timedelta(seconds=90), parameters="DRILL_PARAMETERS"
    )
    assert DrillPolicy.of_json(None) == DrillPolicy.of_json({}) == DrillPolicy(), "by hand: being ready is enough"


def test_a_preset_gets_what_it_lists_of_a_drills_parameters() -> None:
    value = '{"token": "s3cret", "branch": "main"}'
    assert read_parameters("DRILL", value, ["token", "region"]) == {"token": "s3cret"}
    for wrong in (None, "s3cret", "[1]", '{"token": {"auth": "s3cret"}}'):
        with pytest.raises(InvalidInput, match=r"drill\.parameters: DRILL is") as refused:
            read_parameters("DRILL", wrong, ["token"])
        assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"schedule": "* *"}, "schedule", "must have five fields; write five fields that come about"),
        ({"schedule": "0 25 * * *"}, "schedule", "is no cron expression"),
        ({"schedule": "0 3 30 2 *"}, "schedule", "is no cron expression"),
        ({"schedule": "CRON_TZ=UTC 0 3 * * *"}, "schedule", "must have five fields"),
        ({"timezone": "Berlin"}, "timezone", "name of a time zone"),
        ({"command": "make test"}, "command", "nothing goes through a shell"),
        ({"command": []}, "command", "at least 1"),
        ({"command": ["a\x1b[2J"]}, "command.0", "control characters"),
        ({"http": {"path": "ok"}}, "http.path", "starts with /"),
        ({"http": {"status": 42}}, "http.status", "100"),
        ({"command": ["true"], "http": {}}, "input", "at most one of command and http"),
        ({"parameters": "AWS_CREDENTIALS"}, "parameters", "begins with DRILL_"),
        ({"timeout": "2h"}, "timeout", "at most 1h"),
        ({"timeout": 0}, "timeout", "more than 0"),
        ({"every": "1d"}, "every", "unknown key"),
    ],
)
def test_a_wrong_drill_is_refused_by_its_field(changes: dict[str, Any], field: str, message: str) -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError) as refused:
        DrillEntry.model_validate({"schedule": "0 3 * * *"} | changes)
    messages = field_messages(refused.value)
    assert message in messages[field], messages


@pytest.mark.parametrize(
    ("error", "skipped"),
    [
        (InvalidInput.field("drill.parameters", "DRILL is not set on this claims worker"), True),
        (NoClaimablePrebuiltWorkspaces("none can be spared"), True),
        (ProvisionFailed("the hand-over is broken"), False),
    ],
)
def test_an_error_unrelated_to_the_template_skips_the_drill(error: PrebuildsError, skipped: bool) -> None:
    stopped = _stopped_by(application_error(error))
    assert (stopped.skipped, stopped.reason) == (skipped, error.message)
