"""Retention settings: impossible times are refused, and each rule has a setting or rows with their own end."""

from __future__ import annotations

from datetime import timedelta

import pytest

from prebuilds.api import InvalidInput
from prebuilds.settings import Settings, load_settings
from prebuilds.settings.retention import RETENTION_MIN, retention_of
from prebuilds.store.inventory import RECENTLY_DELETED
from prebuilds.store.retention import RULES


@pytest.mark.parametrize(
    ("given", "refused", "says"),
    [
        ({"WORKSPACES": "6d"}, "WORKSPACES", "from 7d to 36500d"),
        ({"EVENTS": "0s"}, "EVENTS", "from 1d to 36500d"),
        ({"REQUESTS": "30m"}, "REQUESTS", "from 1h to 36500d"),
        ({"TOKENS": "40000d"}, "TOKENS", "from 1d to 36500d"),
        ({"LOGS": "31d"}, "LOGS", "must not exceed PREBUILDS_RETENTION_WORKSPACES (30d)"),
        ({"WORKSPACES": "8d", "LOGS": "7d"}, "NOTIFICATIONS", "must not exceed PREBUILDS_RETENTION_WORKSPACES (8d)"),
    ],
)
def test_an_impossible_time_is_refused_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], refused: str, says: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"PREBUILDS_RETENTION_{name}", value)
    with pytest.raises(InvalidInput) as refusal:
        load_settings()
    assert says in str(refusal.value.details[f"PREBUILDS_RETENTION_{refused}"])


def test_every_rule_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREBUILDS_RETENTION_EVENTS", "400d")
    settings = load_settings()
    assert retention_of(settings, "events") == timedelta(days=400)
    with_end = [rule.name for rule in RULES if f"retention_{rule.name}" not in Settings.model_fields]
    assert with_end == ["sign_in_links"]
    assert {f"retention_{rule.name}" for rule in RULES} - {"retention_sign_in_links"} == set(RETENTION_MIN)


def test_an_inventory_finds_the_rows_that_it_looks_for() -> None:
    assert RETENTION_MIN["retention_workspaces"] >= RECENTLY_DELETED
