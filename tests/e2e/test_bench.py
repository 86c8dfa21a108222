"""`prebuilds bench` on a stack in use: it measures, and leaves nothing of its own behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from prebuilds.store.engine import create_engine
from prebuilds.temporal.connecting import connect
from tests.e2e.dev_stack import DevStack, until

COUNTS = {
    table: f"SELECT count(*) FROM {table}"
    for table in ("organizations", "users", "templates", "template_versions", "presets", "organization_members")
} | {
    "workspaces": "SELECT count(*) FROM workspaces WHERE name LIKE 'w-%' OR name = 'held'",
    "claims": "SELECT count(*) FROM claims WHERE id LIKE 'bench-%'",
    "tokens": "SELECT count(*) FROM tokens",
    "events": "SELECT count(*) FROM events WHERE actor LIKE 'bench-%' OR claim_id LIKE 'bench-%'",
}


class ForgetfulStack(DevStack):
    """A stack whose Temporal stores its progress each second, not each half minute or minute.

    It deletes a history only after it has stored that the end of the workflow is processed.
    """

    temporal_options = tuple(
        word
        for queue in ("transfer", "visibility")
        for word in ("--dynamic-config-value", f'history.{queue}ProcessorUpdateAckInterval="1s"')
    )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """A stack whose Temporal deletes histories in seconds; the default takes more than a minute."""
    stack = ForgetfulStack(tmp_path_factory.mktemp("bench"))
    stack.start()
    yield stack
    assert stack.stop() == 0


def counts(stack: DevStack) -> dict[str, int]:
    async def count() -> dict[str, int]:
        engine = create_engine(stack.facts["database_url"])
        async with engine.connect() as connection:
            found = {name: int(await connection.scalar(text(query))) for name, query in COUNTS.items()}
        await engine.dispose()
        return found

    return asyncio.run(count())


def check(figures: list[dict[str, Any]], number: int) -> None:
    assert [f["count"] for f in figures] == [number] * len(figures)
    assert not any(f["errors"] for f in figures)
    assert all(0 < f["p50_ms"] <= f["p90_ms"] <= f["p99_ms"] for f in figures)


def histories(stack: DevStack) -> int:
    async def count() -> int:
        client = await connect(stack.facts["temporal_address"])
        ours = ("bench-", "claim-workspace/bench-", "claim-workspaces/bench-")
        return sum([1 async for w in client.list_workflows() if w.id.startswith(ours)])

    return asyncio.run(count())


def test_bench_measures_claims_and_bursts_and_removes_their_rows(stack: DevStack) -> None:
    stack.apply("besides", 1, command=["sleep", "infinity"], ready=None)
    stack.wait_whole("besides")
    before = counts(stack)
    plain, eager = stack.ask("bench", "claim", "--pairs", "3")["reports"]
    check(plain["figures"] + eager["figures"], 3)
    assert eager["counts"] == {"duplicates": 0, "over-created": 0}
    [burst] = stack.ask("bench", "burst", "--number", "5", "--rounds", "2")["reports"]
    check(burst["figures"], 10)
    assert burst["counts"] == {"duplicates": 0, "over-created": 0}
    one_by_one, at_once = stack.ask("bench", "http", "--pairs", "3", "--at-once", "5")["reports"]
    check(one_by_one["figures"], 3)
    assert [figure["name"] for figure in one_by_one["figures"]] == ["no-op request", "bare statement", "claim"]
    check(at_once["figures"], 5)
    assert at_once["counts"] == {"duplicates": 0, "over-created": 0}
    assert counts(stack) == before
    until(lambda: histories(stack) == 0, "Temporal to delete the histories", 90)
    output = stack.cli("bench", "burst", "--number", "2", "--rounds", "1").out
    assert "2 claims at once" in output
    assert "errors 0" in output


def test_bench_measures_passes(stack: DevStack) -> None:
    [report] = stack.ask("bench", "reconcile", "--passes", "2")["reports"]
    check(report["figures"], 2)
    assert report["counts"]["largest result in bytes"] > 0
