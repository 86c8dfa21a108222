"""`prebuilds logs`: one build's, or a workspace's latest or all, told at once or followed to the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.build_log import BuildLog
from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.base import Progress, Provision
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool
from prebuilds.vocabulary import build_id_of
from tests.builders import make_preset
from tests.postgres.build_log_steps import Telling, log_of, recorded, run, telling
from tests.postgres.owned_steps import claimed
from tests.postgres.pool_steps import fail


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[ClaimStore]:
    async with await create_claim_pool(database_url, size=4) as pool:
        yield ClaimStore(pool, enabled=True)


async def cli(
    database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> Any:
    from prebuilds.cli import run as run_cli

    monkeypatch.setenv("PREBUILDS_DATABASE_URL", database_url)
    code = await asyncio.to_thread(run_cli, ["logs", *words])
    return code, capsys.readouterr().out


async def test_logs_of_a_workspace_are_its_latest_builds(
    engine: AsyncEngine,
    store: ClaimStore,
    database_url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace_id = await claimed(engine, store, handed_over=False)
    first, second = build_id_of(workspace_id, 1), build_id_of(workspace_id, 2)
    async with BuildLog(engine, first) as log:
        log.tell("made")
    await run(engine, telling("handing over", error=ProvisionFailed("no owner")), second)

    async def lines(*words: str) -> list[tuple[str, str]]:
        code, out = await cli(database_url, capsys, monkeypatch, "--json", *words)
        assert code == 0
        return [(line["build_id"], line["line"]) for line in json.loads(out)["lines"]]

    made, handed = (str(first), "made"), [(str(second), "handing over"), (str(second), "no owner")]
    assert await lines("alice/dev") == handed
    assert await lines("alice/dev", "-f") == handed
    assert await lines(str(workspace_id), "--all") == [made, *handed]
    assert await lines(str(first)) == [made]
    code, out = await cli(database_url, capsys, monkeypatch, "alice/dev", "--all")
    assert code == 0
    assert [line.split(" ", 1)[1] for line in out.splitlines() if ", build " not in line] == [
        "made",
        "handing over",
        "no owner",
    ]
    assert f"start (claim), build {second}" in out


async def test_following_ends_with_the_build(
    engine: AsyncEngine, database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build_id, go_on = await recorded(engine), asyncio.Event()

    async def act(_: Provision, progress: Progress) -> None:
        progress("begun")
        await go_on.wait()
        progress("at the end")
        raise ProvisionFailed("too late")

    build = asyncio.create_task(run(engine, Telling(act), build_id))
    following = asyncio.create_task(cli(database_url, capsys, monkeypatch, "--json", "-f", str(build_id)))
    async with asyncio.timeout(10):
        while await log_of(engine, build_id) != ["begun"]:
            await asyncio.sleep(0.02)
    assert not following.done()
    go_on.set()
    code, out = await asyncio.wait_for(following, 10)
    await build
    assert code == 0
    assert [line["line"] for line in json.loads(out)["lines"]] == ["begun", "at the end", "too late"]


async def test_a_build_that_told_nothing_is_said_so(
    engine: AsyncEngine, database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build_id = await recorded(engine)
    assert await cli(database_url, capsys, monkeypatch, str(build_id)) == (0, "nothing is logged\n")
    [workspace_id] = await fail(engine, await make_preset(engine, template="other"), 1)
    _, out = await cli(database_url, capsys, monkeypatch, str(workspace_id))
    assert out.endswith(" no\n")
