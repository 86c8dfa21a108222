"""The smaller decisions: the preset of a claim, a workspace's next action, the meaning of text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prebuilds.api import InvalidInput
from prebuilds.operations.claim_requests import check_request
from prebuilds.payloads import ClaimRequest, parse_input
from prebuilds.planning.autostart import next_start
from prebuilds.planning.choose import PresetOffer, check_parameters, choose_preset, find_near_miss
from prebuilds.planning.lifecycle import LatestBuild, next_action
from prebuilds.vocabulary import BuildStatus, Stage, Transition, parse_duration
from workflows.raw import preset_ids, seconds, stop_cause

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def offer(name: str, *, default: bool = False, pool: bool = True, claim: str = "", **parameters: str) -> PresetOffer:
    return PresetOffer(UUID(int=1), name, default, pool, parameters, frozenset(claim.split()))


OFFERS = [
    offer("any", default=True),
    offer("none"),
    offer("big", size="big"),
    offer("big-eu", size="big", region="eu"),
    offer("big-us", size="big", region="us", pool=False),
    offer("big-us-2", size="big", region="us"),
]


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({}, "any"),
        ({"size": "odd"}, "any"),
        ({"size": "big"}, "big"),
        ({"size": "big", "region": "eu", "x": "y"}, "big-eu"),
        ({"size": "big", "region": "us"}, "big-us-2"),
    ],
)
def test_the_preset_that_says_most_and_fits_is_chosen(parameters: dict[str, str], name: str) -> None:
    chosen = choose_preset(OFFERS, parameters)
    assert chosen is not None
    assert chosen.name == name


def test_a_preset_without_parameters_is_chosen_only_as_default() -> None:
    assert choose_preset([offer("none")], {}) is None


@pytest.mark.parametrize(
    ("parameters", "missed"),
    [
        ({"size": "big", "region": "asia"}, ("big-eu", "region")),  # it gets `none-fit`, which has no pool
        ({"size": "big"}, ("big-eu", "region")),
        ({"size": "small", "region": "eu"}, ("big-eu", "size")),
        ({"size": "small", "region": "asia"}, None),
        ({"size": "big", "region": "eu"}, None),  # it gets one with a pool
        ({"gpu": "two"}, ("gpu", "gpu")),
        ({}, None),  # a claim that says nothing has not meant `gpu`
    ],
)
def test_a_claim_misses_a_preset_by_one_parameter_alone(
    parameters: dict[str, str], missed: tuple[str, str] | None
) -> None:
    offers = [
        offer("none-fit", default=True, pool=False),
        offer("big-eu", size="big", region="eu"),
        offer("big-us", size="big", region="us"),
        offer("small-africa", size="small", region="africa", pool=False),
        offer("gpu", gpu="one"),
    ]
    for order in (offers, offers[::-1]):
        near = find_near_miss(order, parameters, choose_preset(order, parameters))
        assert (near and (near.offer.name, near.parameter)) == missed


def test_a_claim_sets_only_what_its_preset_lets_it() -> None:
    preset = offer("p", claim="token", size="big")
    assert check_parameters(preset, {"size": "big", "token": "a"}, {"token": "b"}, chosen=False) == {"token": "b"}
    with pytest.raises(InvalidInput) as wrong:
        check_parameters(preset, {"size": "small", "other": "x"}, {"secret": "y"}, chosen=False)
    assert set(wrong.value.details) == {"parameters.size", "parameters.other", "claim_parameters.secret"}


START, DELETE = Transition.START, Transition.DELETE
FAILED, SUCCEEDED, CANCELED = BuildStatus.FAILED, BuildStatus.SUCCEEDED, BuildStatus.CANCELED


@pytest.mark.parametrize(
    ("latest", "claimed", "ttl", "expected"),
    [
        (LatestBuild(DELETE, Stage.NONE, FAILED, NOW, 1), True, None, (10, DELETE)),
        (LatestBuild(DELETE, Stage.NONE, CANCELED, NOW, 3), False, None, (30, DELETE)),
        (LatestBuild(DELETE, Stage.NONE, FAILED, NOW, 1000), False, None, (600, DELETE)),
        (LatestBuild(START, Stage.CLAIM, FAILED, NOW, 2), True, None, (4, START)),
        (LatestBuild(START, Stage.CLAIM, FAILED, NOW, 3), True, None, None),
        (LatestBuild(START, Stage.CREATE, FAILED, NOW, 1), False, None, None),
        (LatestBuild(START, Stage.CLAIM, SUCCEEDED, NOW, 0), True, 60, (60, Transition.STOP)),
        (LatestBuild(START, Stage.CLAIM, SUCCEEDED, NOW, 0), True, None, None),
        (LatestBuild(START, Stage.CREATE, SUCCEEDED, NOW, 0), False, 60, None),
        (LatestBuild(START, Stage.CLAIM, BuildStatus.RUNNING, None, 0), True, 60, None),
    ],
)
def test_a_workspace_has_its_next_action(
    latest: LatestBuild, claimed: bool, ttl: int | None, expected: tuple[int, Transition] | None
) -> None:
    found = next_action(latest, claimed=claimed, last_used_at=NOW, ttl=None if ttl is None else timedelta(seconds=ttl))
    assert (None if found is None else (int((found.at - NOW).total_seconds()), found.transition)) == expected


@pytest.mark.parametrize(
    ("schedule", "start"),
    [
        ("30 9 * * 1-5", datetime(2026, 3, 2, 9, 30, tzinfo=UTC)),
        ("CRON_TZ=Europe/Berlin 30 9 * * 1-5", datetime(2026, 3, 2, 8, 30, tzinfo=UTC)),
        ("CRON_TZ=America/New_York 0 0 * * *", datetime(2026, 3, 2, 5, 0, tzinfo=UTC)),
    ],
)
def test_the_next_start_is_computed_in_its_zone(schedule: str, start: datetime) -> None:
    assert next_start(schedule, NOW) == start


@pytest.mark.parametrize("schedule", ["", "whenever", "CRON_TZ=Nowhere/Else 0 0 * * *", "0 0 30 2 *", "61 * * * *"])
def test_a_schedule_that_cannot_be_read_is_refused_by_name(schedule: str) -> None:
    with pytest.raises(InvalidInput) as wrong:
        next_start(schedule, NOW)
    assert list(wrong.value.details) == ["autostart_schedule"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("15m", 900), ("1h30m", 5400), ("2d", 172_800), ("250ms", 0.25), ("0", 0), (0, 0)],
)
def test_durations_are_read_as_people_write_them(text: object, expected: float) -> None:
    assert parse_duration(text) == timedelta(seconds=expected)


@pytest.mark.parametrize("text", ["", "soon", "-5m", "5 m", "1y", "366d", True])
def test_invalid_durations_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_duration(text)


GOOD = {"preset": "a/b/c", "owner": "alice", "name": "dev"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prest": "x"}, "prest"),
        ({"name": "No"}, "name"),
        ({"name": "a" * 33}, "name"),
        ({"name": "a--b"}, "name"),
        ({"ttl_seconds": -1}, "ttl_seconds"),
        ({"parameters": {"a": 1}}, "parameters.a"),
        ({"template": "a/b"}, "input"),
        ({"preset": None}, "input"),
        ({"owner": None}, "owner"),
        ({"owner": "prebuilds"}, "owner"),
        ({"initiator": "prebuilds"}, "initiator"),
        ({"on_empty": "maybe"}, "on_empty"),
        ({"wait_timeout_seconds": 0}, "wait_timeout_seconds"),
        ({"on_timeout": "wait"}, "on_timeout"),
        ({"on_timeout": "create"}, "on_timeout"),
        ({"on_timeout": "create", "on_empty": "create"}, "on_timeout"),
        ({"wait_timeout_seconds": 60}, "wait_timeout_seconds"),
        ({"next_start_at": "2026-01-01T00:00:00Z"}, "next_start_at"),
        ({"next_start_at": "tomorrow"}, "next_start_at"),
    ],
)
def test_a_bad_claim_names_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as wrong:
        check_request(parse_input(ClaimRequest, GOOD | change, "claim"))
    assert field in wrong.value.details


@pytest.mark.parametrize(
    "change",
    [
        {"on_empty": "wait", "wait_timeout_seconds": 60, "on_timeout": "create"},
        {"on_empty": "fail", "wait_timeout_seconds": 300, "on_timeout": "fail"},  # what is so anyway may be said
    ],
)
def test_a_valid_claim_is_accepted(change: dict[str, Any]) -> None:
    request = parse_input(ClaimRequest, GOOD | change, "claim")
    assert check_request(request) is request


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(JSON, max_size=3))
def test_nothing_that_is_typed_raises(raw: list[Any]) -> None:
    assert stop_cause(raw)
    good, _ = preset_ids(raw)
    assert all(UUID(item) for item in good)
    interval = seconds(raw)
    assert interval is None or 0 < interval <= 86_400
