"""Commands with a filter refuse one that names an unknown object: a typo must not look like an empty list."""

from __future__ import annotations

import asyncio
import json

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.cli import run
from prebuilds.store.jobs import cancel_jobs, list_jobs
from prebuilds.store.templates import delete_template
from prebuilds.store.workspaces import list_workspaces
from prebuilds.views import JobFilter
from tests.builders import make_preset
from tests.postgres.pool_steps import record_prebuilds
from tests.rows import rows_of

UNKNOWN = [
    (("jobs", "list", "--initiator", "zoe"), "InitiatorNotFound", "initiator"),
    (("jobs", "list", "--initiator", "Zoë"), "InitiatorNotFound", "initiator"),
    (("jobs", "list", "--initiator", "\udcff"), "InitiatorNotFound", "initiator"),
    (("jobs", "list", "--template", "acme/pyhton"), "TemplateNotFound", "template"),
    (("jobs", "list", "--template", "python"), "InvalidInput", "template"),
    (("jobs", "cancel", "--initiator", "zoe"), "InitiatorNotFound", "initiator"),
    (("jobs", "cancel", "--initiator", "prebuilds", "--template", "acme/none"), "TemplateNotFound", "template"),
    (("jobs", "cancel", "--status", "pending", "--initiator", "zoe", "--dry-run"), "InitiatorNotFound", "initiator"),
    (("workspaces", "list", "--owner", "zoe"), "OwnerNotFound", "owner"),
    (("workspaces", "list", "--owner", "\udcff"), "OwnerNotFound", "owner"),
    (("workspaces", "list", "--preset", "acme/python/smal"), "PresetNotFound", "preset"),
    (("workspaces", "list", "--preset", "small"), "InvalidInput", "preset"),
    (("workspaces", "list", "--owner", "zoe", "--preset", "acme/python/small"), "OwnerNotFound", "owner"),
    (("workspaces", "list", "--prebuilt", "--preset", "acme/none/small"), "PresetNotFound", "preset"),
    (("workspaces", "prune", "--failed", "--preset", "acme/python/smal"), "PresetNotFound", "preset"),
    (("presets", "list", "--template", "acme/pyhton"), "TemplateNotFound", "template"),
]

EMPTY = [
    (("jobs", "list", "--initiator", "bob"), "no jobs"),
    (("jobs", "list", "--template", "acme/idle"), "no jobs"),
    (("jobs", "cancel", "--initiator", "bob"), "0 canceled, 0 skipped"),
    (("workspaces", "list", "--owner", "bob"), "no workspaces"),
    (("workspaces", "list", "--preset", "acme/idle/small"), "no workspaces"),
]


@pytest.fixture
async def pools(engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncEngine:
    """acme/python/small with two creations pending, acme/idle/small with nothing; bob, who has asked for nothing."""
    monkeypatch.setenv("PREBUILDS_DATABASE_URL", database_url)
    monkeypatch.setenv(
        "TEMPORAL_ADDRESS", "127.0.0.1:1"
    )  # unreachable; otherwise a server at the usual port would be asked
    await record_prebuilds(engine, await make_preset(engine), 2)
    await make_preset(engine, template="idle")
    return engine


@pytest.mark.parametrize(("words", "kind", "field"), UNKNOWN, ids=[ascii(" ".join(case[0])) for case in UNKNOWN])
async def test_an_unknown_filter_is_refused_and_writes_nothing(
    pools: AsyncEngine, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], kind: str, field: str
) -> None:
    before = await rows_of(pools)
    code = await asyncio.to_thread(run, ["--json", *words])
    error = json.loads(capsys.readouterr().out)["error"]
    assert (code, error["type"], list(error["details"])) == (1, kind, [field])
    assert await rows_of(pools) == before


@pytest.mark.parametrize(("words", "output"), EMPTY, ids=[" ".join(case[0]) for case in EMPTY])
async def test_a_filter_without_matches_prints_that_nothing_was_found(
    pools: AsyncEngine, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], output: str
) -> None:
    assert await asyncio.to_thread(run, list(words)) == 0
    assert capsys.readouterr().out == f"{output}\n"


async def test_a_path_is_every_generation_and_an_id_is_one(engine: AsyncEngine) -> None:
    old = await make_preset(engine)
    await record_prebuilds(engine, old, 1)
    await delete_template(engine, "acme/python", "ops")
    new = await make_preset(engine)
    await record_prebuilds(engine, new, 2)

    async def presets_of(template: str) -> list[object]:
        return [job.preset_id for job in await list_jobs(engine, JobFilter(template=template))]

    assert sorted(map(str, await presets_of("acme/python"))) == sorted(map(str, [old.id, new.id, new.id]))
    assert await presets_of(str(old.template_id).upper()) == [old.id]
    assert await presets_of(str(new.template_id)) == [new.id] * 2
    for reference, expected in (("acme/python/small", 3), (str(old.id).upper(), 1), (str(new.id), 2)):
        assert len(await list_workspaces(engine, preset=reference)) == expected
    only_old = await cancel_jobs(engine, JobFilter(template=str(old.template_id)), "ops")
    assert only_old.result.model_dump() == {"canceled": 1, "skipped": 0}
