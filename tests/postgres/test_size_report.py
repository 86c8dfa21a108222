"""`prebuilds size`: past claims under today's policy and under each rule."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
import yaml
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from prebuilds.api import InvalidInput, PresetNotFound
from prebuilds.cli.size import read_target, read_times, size_table
from prebuilds.cli.size_chart import chart_lines
from prebuilds.operations.context import Context
from prebuilds.operations.sizes import SizeOperations
from prebuilds.planning.sizing.question import SizeQuestion
from prebuilds.settings import Settings
from prebuilds.templates.preset_entry import PresetEntry
from tests.builders import make_preset
from tests.postgres.pool_steps import NotedDispatcher
from tests.rows import do


@pytest.fixture
def sizes(engine: AsyncEngine) -> SizeOperations:
    return SizeOperations(Context(engine, cast("Client", None), NotedDispatcher(), Settings()))


async def add_demand(engine: AsyncEngine, minutes: int) -> None:
    """One claim a minute, and a burst of six every third hour, until now."""
    async with engine.begin() as connection:
        await connection.execute(
            text("""
                INSERT INTO preset_demand (template_id, preset_name, minute, claims, hits)
                SELECT template_id, name, date_trunc('minute', now()) - n * interval '1 minute',
                       ARRAY[1, 0, CASE WHEN n % 180 = 0 THEN 6 ELSE 0 END, 0, 0, 0], 0
                  FROM presets, generate_series(1, :minutes) AS n
            """),
            {"minutes": minutes},
        )


async def test_rules_stand_beside_todays_policy(engine: AsyncEngine, sizes: SizeOperations) -> None:
    preset = await make_preset(engine, instances=3)
    await do(engine, "UPDATE presets SET cost_per_hour = 0.5")
    await add_demand(engine, 3000)
    report = await sizes.size(
        "acme/python/small", SizeQuestion(hit_rate=0.95, last=timedelta(minutes=3000), lead=timedelta(seconds=60))
    )
    assert (report.preset, report.preset_id, report.claims) == ("acme/python/small", preset.id, 3000 + 16 * 6)
    assert report.scored_from - report.begins_at == timedelta(minutes=1500)
    today, chosen, *others = report.lines
    assert (today.rule, today.today, today.size_now) == ("today's policy", True, 3)
    assert today.idle_mean < 3
    assert chosen.chosen
    assert chosen.met
    assert chosen.hit_rate >= 0.95
    assert chosen.cost == pytest.approx(chosen.member_hours / 2)
    assert len({line.rule for line in others}) == len(others) >= 2
    assert sum(part.claims for part in report.parts) == 1500 + 8 * 6
    assert sum(part.missed for part in report.parts) == round((1 - chosen.hit_rate) * (1500 + 48))
    assert report.suggestion.startswith("target: {hit_rate: 0.95, min: 0, max: ")
    assert {part.today_size for part in report.parts} == {3}
    assert sum(part.today_missed for part in report.parts) == round((1 - today.hit_rate) * (1500 + 48))
    for width in (60, 80, 200):
        lines = chart_lines(report, width)
        assert [line[:12].strip() for line in lines] == ["claims", "size", "size today", "missed", "missed today", ""]
        assert max(map(len, lines)) <= width
        assert f"most {max(part.size for part in report.parts)}" in lines[1]
        assert lines[4].endswith(f"in all {sum(part.today_missed for part in report.parts)}")


async def test_windows_hold_under_each_rule(engine: AsyncEngine, sizes: SizeOperations) -> None:
    await make_preset(engine, instances=3)
    await do(engine, "UPDATE presets SET timezone = 'UTC'")
    await do(engine, "INSERT INTO preset_schedules SELECT id, 0, '* * * * *', 30, true FROM presets")
    await add_demand(engine, 3000)
    question = SizeQuestion(hit_rate=0.95, last=timedelta(minutes=3000), lead=timedelta(seconds=60))
    report = await sizes.size("acme/python/small", question)
    assert {line.size_now for line in report.lines} == {30}
    assert {(part.size, part.today_size) for part in report.parts} == {(30, 30)}
    assert [window.count for window in report.windows] == ["at least 30"]
    await do(engine, "UPDATE preset_schedules SET instances = 0, least = false")
    closed = await sizes.size("acme/python/small", question)
    assert not closed.met
    assert not any(line.hit_rate or line.met for line in closed.lines), "a window goes before each rule"


async def test_a_short_history_is_reported(engine: AsyncEngine, sizes: SizeOperations) -> None:
    await make_preset(engine)
    await add_demand(engine, 30)
    report = await sizes.size("acme/python/small", SizeQuestion(last=timedelta(hours=1), lead=timedelta(seconds=5)))
    assert not report.enough_history
    assert not report.met
    assert [line.chosen for line in report.lines] == [False, True]


async def test_claims_of_a_file_are_replayed(engine: AsyncEngine, sizes: SizeOperations, tmp_path: Path) -> None:
    await make_preset(engine)
    file = tmp_path / "claims.csv"
    file.write_text("at,who\n2026-03-02T09:14:00Z,alice\n\n2026-03-02T10:15:30+01:00,bob\n")
    times = read_times(file)
    report = await sizes.size("acme/python/small", SizeQuestion(times=times, lead=timedelta(seconds=60)))
    assert (report.claims, report.begins_at.isoformat()) == (2, "2026-03-02T09:14:00+00:00")
    assert report.ends_at - report.begins_at == timedelta(minutes=2)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("at\nyesterday\n", "line 2: 'yesterday' is no time"),
        ("2026-03-02T09:14:00\n", "line 1: '2026-03-02T09:14:00' has no time zone"),
        ("9999-12-31T23:59:59Z\n", "line 1: '9999-12-31T23:59:59Z' is no time of a claim"),
        ("x" * 200_000, "cannot be read: field larger than field limit"),
        ("\n" * 1_000_001, "has more than 1000000 lines"),
    ],
)
def test_a_wrong_file_is_refused_by_line(tmp_path: Path, content: str, why: str) -> None:
    file = tmp_path / "claims.csv"
    file.write_text(content)
    with pytest.raises(InvalidInput) as error:
        read_times(file)
    assert why in error.value.details["csv"]


@pytest.mark.parametrize(
    ("field", "question"),
    [
        ("target", SizeQuestion(hit_rate=1.0)),
        ("target", SizeQuestion(wait_p95=timedelta(0))),
        ("target", SizeQuestion(hit_rate=0.9, wait_p95=timedelta(seconds=1))),
        ("last", SizeQuestion(last=timedelta(days=90))),
        ("lead", SizeQuestion(lead=timedelta(0))),
        ("lead", SizeQuestion()),  # no creation was measured
        ("csv", SizeQuestion(times=[], lead=timedelta(seconds=1))),
    ],
)
async def test_an_impossible_question_names_its_field(
    engine: AsyncEngine, sizes: SizeOperations, field: str, question: SizeQuestion
) -> None:
    await make_preset(engine)
    with pytest.raises(InvalidInput) as error:
        await sizes.size("acme/python/small", question)
    assert field in error.value.details


async def test_an_unknown_preset_is_refused_by_the_size_report(engine: AsyncEngine, sizes: SizeOperations) -> None:
    with pytest.raises(PresetNotFound):
        await sizes.size("acme/python/none", SizeQuestion())


@pytest.mark.parametrize(
    ("typed", "read"), [("0.99", (0.99, None)), ("99%", (0.99, None)), ("5s", (None, "5s")), ("1m", (None, "1m"))]
)
def test_a_target_is_a_share_or_a_wait(typed: str, read: tuple[float | None, str | None]) -> None:
    assert read_target(typed) == read


async def test_counts_of_both_tiers_stand_beside_the_rules(engine: AsyncEngine, sizes: SizeOperations) -> None:
    await make_preset(engine, instances=3, standby={"paused": 2})
    await do(engine, "UPDATE presets SET cost_per_hour = 0.5")
    await add_demand(engine, 3000)
    minute = timedelta(minutes=1)
    question = SizeQuestion(wait_p95=timedelta(seconds=5), last=3000 * minute, lead=minute)
    own = await sizes.size("acme/python/small", question)
    assert {line.paused for line in own.lines} == {2}, "the preset's paused count is held under each rule"
    assert (own.promotion_seconds, own.paused_cost) == (60.0, 0.1), "as a creation, before one was measured"
    promotion = timedelta(seconds=2)
    report = await sizes.size("acme/python/small", replace(question, max_paused=8, promotion=promotion))
    today, chosen, *others = report.lines
    alone = min((line for line in others if line.met and not line.paused), key=lambda line: line.cost or 0)
    assert (today.size_now, today.paused) == (3, 2)
    assert (chosen.rule, chosen.chosen, chosen.met) == (f"fixed {chosen.size_now}", True, True)
    assert chosen.cost is not None
    assert chosen.cost < (alone.cost or 0)
    assert chosen.cost == pytest.approx((chosen.member_hours + 0.1 * chosen.paused_hours) / 2)
    assert report.suggestion.endswith(f", max_paused: 8, mode: suggest}}\nstandby: {{paused: {chosen.paused}}}")
    entry = PresetEntry.model_validate({"name": "small", "instances": 3, **yaml.safe_load(report.suggestion)})
    assert entry.target is not None, "the file accepts the suggestion"
    await do(engine, "UPDATE presets SET target = :target", target=json.dumps(entry.target.stored()))
    followed = await sizes.size("acme/python/small", replace(question, promotion=promotion))
    assert followed.lines[1] == chosen, "the preset's own target is replayed within its bounds"
    columns, rows = size_table(report)
    assert [row[columns.index("PAUSED")] for row in rows][:2] == [2, chosen.paused]
    with pytest.raises(InvalidInput, match="paused_cost"):
        await sizes.size("acme/python/small", replace(question, paused_cost=2.0))
