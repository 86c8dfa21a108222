"""A build's log: told through a driver's `Progress`, kept in order, bounded, found, and removed when old."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities import build_log
from activities.build_log import LINE_CHARS_MAX, LINES_MAX, BuildLog
from prebuilds.api import InvalidInput, ProvisionFailed, WorkspaceNotFound
from prebuilds.background.retaining import Retention
from prebuilds.provisioners.base import Progress, Provision
from prebuilds.settings import Settings
from prebuilds.store import logs
from prebuilds.store.claims import ClaimStore
from prebuilds.store.logs import Position, find_logged_builds, read_log
from prebuilds.vocabulary import BuildStatus, build_id_of
from tests.builders import make_preset
from tests.postgres.lifecycle_steps import claimed
from tests.postgres.log_steps import Telling, log_of, recorded, run, telling
from tests.postgres.pool_steps import make_ready, record_prebuilds
from tests.postgres.retention_steps import remove_old
from tests.rows import do, one
from tests.workflow.fakes import until


async def test_lines_are_kept_in_order_before_the_build_has_ended(engine: AsyncEngine) -> None:
    build_id, begun = await recorded(engine), datetime.now(UTC)
    written = [f"line {n}" for n in range(250)]
    assert (await run(engine, telling(*written), build_id)).status is BuildStatus.SUCCEEDED
    lines, _ = await read_log(engine, build_id)
    assert [line.line for line in lines] == written
    times = [line.at for line in lines]
    ended = (await one(engine, "SELECT completed_at FROM workspace_builds WHERE id = :id", id=build_id)).completed_at
    assert begun <= times[0]
    assert times == sorted(times)
    assert times[-1] <= ended


@pytest.mark.parametrize("lines", [1, 150])
async def test_lines_are_read_while_the_driver_works(engine: AsyncEngine, lines: int) -> None:
    build_id, go_on = await recorded(engine), asyncio.Event()

    async def act(_: Provision, progress: Progress) -> None:
        for n in range(lines):
            progress(f"{n}")
        await go_on.wait()
        progress("done")

    build = asyncio.create_task(run(engine, Telling(act), build_id))
    async with asyncio.timeout(10):
        while len(await log_of(engine, build_id)) < lines:
            await asyncio.sleep(0.02)
    _, position = await read_log(engine, build_id)
    assert position == Position(1, lines)
    assert await read_log(engine, build_id, position) == ([], position)
    go_on.set()
    await build
    assert [line.line for line in (await read_log(engine, build_id, position))[0]] == ["done"]


async def test_an_attempt_appends_after_the_one_before(engine: AsyncEngine) -> None:
    build_id = await recorded(engine)
    with pytest.raises(OSError, match="lost"):
        await run(engine, telling("first", error=OSError("lost")), build_id)
    await run(engine, telling("second", "third"), build_id)
    assert await log_of(engine, build_id) == ["first", "second", "third"]


async def test_a_late_attempt_takes_no_line_from_the_next(engine: AsyncEngine) -> None:
    build_id = await recorded(engine)
    async with BuildLog(engine, build_id, 1) as frozen:
        frozen.add("before")
        while await log_of(engine, build_id) != ["before"]:
            await asyncio.sleep(0.02)
        async with BuildLog(engine, build_id, 2) as live:
            live.add("live")
        frozen.add("late")
    assert sorted(await log_of(engine, build_id)) == ["before", "late", "live"]


async def test_attempts_that_begin_to_tell_at_once_keep_all_their_lines(engine: AsyncEngine) -> None:
    build_id = await recorded(engine)
    async with BuildLog(engine, build_id, 1) as frozen, BuildLog(engine, build_id, 2) as live:
        frozen.add("frozen")
        live.add("live")
    assert await log_of(engine, build_id) == ["frozen", "live"]


async def test_a_log_is_bounded_over_all_attempts(engine: AsyncEngine) -> None:
    build_id = await recorded(engine)
    with pytest.raises(OSError, match="lost"):
        await run(engine, telling(*["x"] * (LINES_MAX - 2), error=OSError("lost")), build_id)
    await run(engine, telling(*"abcde"), build_id)
    lines = await log_of(engine, build_id)
    assert len(lines) == LINES_MAX + 1
    assert lines[-3:] == ["a", "b", "3 more lines were dropped"]


async def test_exactly_one_attempt_counts_the_dropped_lines(engine: AsyncEngine) -> None:
    build_id = await recorded(engine)
    await run(engine, telling(*["x"] * (LINES_MAX + 700)), build_id)
    lines = await log_of(engine, build_id)
    assert (len(lines), lines[-1]) == (LINES_MAX + 1, "700 more lines were dropped")


async def test_a_workspaces_output_is_stored_escaped(engine: AsyncEngine) -> None:
    build_id = await recorded(engine)
    failing = telling("\x1b[31mred\x07\ttab", error=ProvisionFailed("no \x1b[2Jimage\nfurther\u202e"))
    outcome = await run(engine, failing, build_id)
    assert await log_of(engine, build_id) == ["\\x1b[31mred\\x07\ttab"]
    assert outcome.error == "no \\x1b[2Jimage\nfurther\\u202e"
    kept = await one(
        engine,
        """SELECT b.error, e.data->>'error' AS recorded FROM workspace_builds b JOIN events e ON e.build_id = b.id
            WHERE b.id = :id AND e.kind = 'build_failed'""",
        id=build_id,
    )
    assert kept.error == kept.recorded == outcome.error


async def test_lines_are_made_storable(engine: AsyncEngine) -> None:
    build_id = await recorded(engine)
    await run(engine, telling("a\0b", "half \ud800", "two\nlines\r\n", "", "y" * LINE_CHARS_MAX, "z" * 9000), build_id)
    lines = await log_of(engine, build_id)
    assert lines[:-2] == ["a\\x00b", "half \\ud800", "two", "lines", ""]
    assert lines[-2] == "y" * LINE_CHARS_MAX
    assert lines[-1] == "z" * (LINE_CHARS_MAX - 1) + "…"


async def test_a_database_that_was_away_for_a_moment_loses_no_line(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_id, away, tries = await recorded(engine), True, 0
    real = logs.append_lines

    async def append(*args: Any) -> None:
        nonlocal tries
        tries += 1
        if away:
            if tries == 2:
                await real(*args)  # written, and the reply lost
            raise OSError("the database is away")
        await real(*args)

    async def act(_: Provision, progress: Progress) -> None:
        nonlocal away
        progress("one")
        await until(lambda: tries == 1, "a first try")
        progress("two")
        await until(lambda: tries == 3, "tries after that")
        away = False

    monkeypatch.setattr(build_log, "append_lines", append)
    assert (await run(engine, Telling(act), build_id)).status is BuildStatus.SUCCEEDED
    assert await log_of(engine, build_id) == ["one", "two"]


async def test_a_log_that_cannot_be_written_fails_no_build(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def append(*_: Any) -> None:
        raise OSError("the log's table is away")

    monkeypatch.setattr(build_log, "append_lines", append)
    monkeypatch.setattr(build_log, "LAST_FLUSH_S", 0.1)
    build_id = await recorded(engine)
    assert (await run(engine, telling("lost"), build_id)).status is BuildStatus.SUCCEEDED
    assert await log_of(engine, build_id) == []


async def test_builds_are_found_by_their_id_and_by_their_workspace(engine: AsyncEngine, store: ClaimStore) -> None:
    workspace_id = await claimed(engine, store)
    first, second = build_id_of(workspace_id, 1), build_id_of(workspace_id, 2)
    for reference, expected in (
        (str(first), [first]),
        (str(workspace_id), [first, second]),
        ("alice/dev", [first, second]),
    ):
        assert [build.id for build in await find_logged_builds(engine, reference)] == expected
    with pytest.raises(WorkspaceNotFound, match="no build and no workspace"):
        await find_logged_builds(engine, str(uuid4()))
    with pytest.raises(WorkspaceNotFound, match="alice has no live workspace named nothing"):
        await find_logged_builds(engine, "alice/nothing")
    with pytest.raises(InvalidInput):
        await find_logged_builds(engine, "alice")


async def test_the_error_is_the_last_line(engine: AsyncEngine) -> None:
    build_id = await recorded(engine)
    outcome = await run(engine, telling("trying", error=ProvisionFailed("no disk\nlog: full")), build_id)
    assert outcome.status is BuildStatus.FAILED
    [build] = await find_logged_builds(engine, str(build_id))
    assert await log_of(engine, build_id) == ["trying"]
    assert [(line.line, line.at) for line in build.last_lines()] == [("no disk\nlog: full", build.completed_at)]


# --- Old logs ---


async def age(engine: AsyncEngine, build_id: UUID, by: timedelta, *, ended: timedelta | None = None) -> None:
    await do(engine, "UPDATE build_logs SET at = at - CAST(:by AS interval) WHERE build_id = :id", id=build_id, by=by)
    statement = "UPDATE workspace_builds SET completed_at = completed_at - CAST(:by AS interval) WHERE id = :id"
    await do(engine, statement, id=build_id, by=by if ended is None else ended)


async def test_the_relay_removes_logs_two_weeks_after_their_builds_end(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    old, recent, late, going = [build_id_of(w, 1) for w in await record_prebuilds(engine, preset, 4)]
    for build_id in (old, recent, late):
        await run(engine, telling("a", "b"), build_id)
    with pytest.raises(OSError, match="lost"):
        await run(engine, telling("c", error=OSError("lost")), going)
    fortnight, day = timedelta(days=14), timedelta(days=1)
    await age(engine, old, fortnight + day)
    await age(engine, recent, fortnight - day)
    await age(engine, late, fortnight + day, ended=fortnight - day)
    await age(engine, going, fortnight + day)
    await Retention(engine, Settings()).sweep()
    assert [len(await log_of(engine, build_id)) for build_id in (old, recent, late, going)] == [0, 2, 2, 1]


async def test_a_turn_removes_the_logs_of_a_few_builds(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    builds = [build_id_of(w, 1) for w in await make_ready(engine, preset, 3)]
    for build_id in builds:
        async with BuildLog(engine, build_id, 1) as log:
            log.add("a\nb")
        await age(engine, build_id, timedelta(days=15))
    turns = [await remove_old(engine, "logs", batch=2) for _ in range(3)]
    assert turns == [{"build_logs": 4}, {"build_logs": 2}, {}]
