"""`prebuilds logs`: one build's log, or a workspace's latest or all, printed at once or followed to the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeAlias
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.build_log import BuildLog
from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.base import Progress, Provision
from prebuilds.store.build_begin import begin_build
from prebuilds.store.build_end import end_build
from prebuilds.store.claims import ClaimStore
from prebuilds.store.workspaces import release_workspace
from prebuilds.vocabulary import BuildStatus, build_id_of
from prebuilds.vocabulary.words import clock
from tests.builders import make_preset
from tests.postgres.lifecycle_steps import claimed
from tests.postgres.log_steps import Telling, log_of, recorded, run, telling
from tests.postgres.pool_steps import fail
from tests.rows import do, one

Logs: TypeAlias = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
def logs(database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Logs:
    """Run `prebuilds logs`; return its exit code and output."""
    from prebuilds.cli import run as run_cli

    monkeypatch.setenv("PREBUILDS_DATABASE_URL", database_url)

    async def run_words(*words: str) -> tuple[int, str]:
        code = await asyncio.to_thread(run_cli, ["logs", *words])
        return code, capsys.readouterr().out

    return run_words


async def test_logs_of_a_workspace_are_its_latest_builds(engine: AsyncEngine, store: ClaimStore, logs: Logs) -> None:
    workspace_id = await claimed(engine, store, handed_over=False)
    first, second = build_id_of(workspace_id, 1), build_id_of(workspace_id, 2)
    async with BuildLog(engine, first, 1) as log:
        log.add("made")
    await run(engine, telling("handing over", error=ProvisionFailed("no owner")), second)

    async def lines(*words: str) -> list[tuple[str, str]]:
        code, out = await logs("--json", *words)
        assert code == 0
        return [(line["build_id"], line["line"]) for line in json.loads(out)["lines"]]

    made, handed = (str(first), "made"), [(str(second), "handing over"), (str(second), "no owner")]
    assert await lines("alice/dev") == handed
    assert await lines("alice/dev", "-f") == handed
    assert await lines(str(workspace_id), "--all") == [made, *handed]
    assert await lines(str(first)) == [made]
    code, out = await logs("alice/dev", "--all")
    assert code == 0
    assert [line.split(" ", 1)[1] for line in out.splitlines() if ", build " not in line] == [
        "made",
        "handing over",
        "no owner",
    ]
    assert f"start (claim), build {second}" in out


async def test_following_ends_with_the_build(engine: AsyncEngine, logs: Logs) -> None:
    build_id, go_on = await recorded(engine), asyncio.Event()

    async def act(_: Provision, progress: Progress) -> None:
        progress("begun")
        await go_on.wait()
        progress("at the end")
        raise ProvisionFailed("too late")

    build = asyncio.create_task(run(engine, Telling(act), build_id))
    following = asyncio.create_task(logs("--json", "-f", str(build_id)))
    async with asyncio.timeout(10):
        while await log_of(engine, build_id) != ["begun"]:
            await asyncio.sleep(0.02)
    assert not following.done()
    go_on.set()
    code, out = await asyncio.wait_for(following, 10)
    await build
    assert code == 0
    assert [line["line"] for line in json.loads(out)["lines"]] == ["begun", "at the end", "too late"]


async def test_a_build_without_log_lines_is_reported_as_such(engine: AsyncEngine, logs: Logs) -> None:
    build_id = await recorded(engine)
    assert await logs(str(build_id)) == (0, "nothing is logged\n")
    [workspace_id] = await fail(engine, await make_preset(engine, template="other"), 1)
    _, out = await logs(str(workspace_id))
    assert out.endswith(" no\n")


async def test_an_older_days_lines_say_which_day(engine: AsyncEngine, logs: Logs) -> None:
    build_id = await recorded(engine)
    async with BuildLog(engine, build_id, 1) as log:
        log.add("made")
    for table in ("workspace_builds SET created_at = :at WHERE id", "build_logs SET at = :at WHERE build_id"):
        await do(engine, f"UPDATE {table} = :id", at=datetime(2026, 3, 2, 12, 0, tzinfo=UTC), id=build_id)
    _, out = await logs(str(build_id))
    assert out == f"{clock(datetime(2026, 3, 2, 12, 0, tzinfo=UTC), None)} made\n"


async def released(engine: AsyncEngine, workspace_id: UUID) -> UUID:
    _, deletion = await release_workspace(engine, str(workspace_id), "ops")
    await begin_build(engine, deletion.id)
    await end_build(engine, deletion.id, BuildStatus.SUCCEEDED)
    return deletion.id


async def test_a_released_workspaces_log_is_shown_with_its_deletion(
    engine: AsyncEngine, store: ClaimStore, logs: Logs
) -> None:
    workspace_id = await claimed(engine, store, handed_over=False)
    handed = build_id_of(workspace_id, 2)
    await run(engine, telling("handed over"), handed)
    deletion = await released(engine, workspace_id)
    gone = await one(engine, "SELECT deleted_at AS at FROM workspaces WHERE id = :id", id=workspace_id)
    end = f"its workspace was deleted at {clock(gone.at, None)}\n"

    for reference in ("alice/dev", str(workspace_id)):
        code, out = await logs(reference)
        assert code == 0
        assert f"start (claim), build {handed}\n" in out
        assert out.endswith(f" handed over\n{end}")
    code, out = await logs("--json", "alice/dev")
    document = json.loads(out)
    assert ([line["line"] for line in document["lines"]], document["released_at"] is None) == (["handed over"], False)
    code, out = await logs(str(deletion))
    assert out.endswith(f"{end}nothing is logged; old lines are removed (PREBUILDS_RETENTION_LOGS)\n"), (
        "it said nothing"
    )

    another = await claimed(engine, store, claim_id="another")
    code, out = await logs("alice/dev")
    assert (code, out) == (0, "nothing is logged\n"), "the name is that of the one that lives"
    await released(engine, another)
    code, out = await logs("alice/dev")
    assert "handed over" not in out, "the last one that had it"
