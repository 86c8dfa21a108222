"""`apply` against PostgreSQL: changed content makes a version, and earlier content restores its version."""

from __future__ import annotations

from dataclasses import astuple
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import TemplateNotFound
from prebuilds.store import apply as store
from prebuilds.store.engine import create_engine
from prebuilds.store.identity import read_identity
from prebuilds.store.migrate import migrate
from prebuilds.vocabulary import build_id_of
from tests.builders import apply_file, find_preset, make_preset
from tests.postgres.pool_steps import record_prebuilds
from tests.rows import add_prebuild, do, events, one, rows_of

SMALL: dict[str, Any] = {"name": "small", "parameters": {"size": "small"}, "instances": 3}
LARGE: dict[str, Any] = {"name": "large", "parameters": {"size": "large"}, "instances": 1}


@pytest.mark.parametrize(
    "entry",
    [
        {"source": {"command": ["sleep", "1"]}},
        {"queue": "gpu"},
        {"provisioner": "container"},
    ],
)
async def test_changed_content_is_a_new_active_version(engine: AsyncEngine, entry: dict[str, Any]) -> None:
    await apply_file(engine, SMALL)
    before = await find_preset(engine)
    result = await apply_file(engine, SMALL, **entry)
    after = await find_preset(engine)
    assert after.version_id != before.version_id
    assert after.id != before.id
    assert after.template_id == before.template_id
    assert result.updated == ["template acme/python", "preset acme/python/small"]
    assert [(v.template, v.version, v.id) for v in result.versions] == [("acme/python", 2, after.version_id)]
    assert (await one(engine, "SELECT desired_instances FROM presets WHERE id = :id", id=after.id))[0] == 3


async def test_changed_parameters_are_a_new_version(engine: AsyncEngine) -> None:
    await apply_file(engine, SMALL)
    result = await apply_file(engine, SMALL | {"parameters": {"size": "tiny"}})
    assert [version.version for version in result.versions] == [2]


async def test_adding_and_removing_a_preset_are_new_versions(engine: AsyncEngine) -> None:
    await apply_file(engine, SMALL)
    first = await find_preset(engine)
    added = await apply_file(engine, SMALL, LARGE)
    assert added.created == ["preset acme/python/large"]
    assert added.updated == ["template acme/python"]
    assert "preset acme/python/small" in added.unchanged
    assert [version.version for version in added.versions] == [2]
    removed = await apply_file(engine, SMALL)
    assert removed.updated == ["template acme/python", "preset acme/python/large (removed)"]
    assert await find_preset(engine) == first, "the content of version 1 is version 1 again"
    assert [version.version for version in removed.versions] == [1]


async def test_earlier_content_is_active_again_with_holds_reset_and_todays_policy(engine: AsyncEngine) -> None:
    await apply_file(engine, SMALL | {"expire_after": "1h"}, LARGE)
    first = await find_preset(engine)
    ready = await add_prebuild(engine, first, timedelta(minutes=10))
    await apply_file(engine, SMALL, LARGE, queue="gpu")
    reset = "SELECT limit_reset_at = (SELECT max(at) FROM events) FROM presets WHERE template_version_id = :id"
    assert (await one(engine, f"{reset} AND name = 'small'", id=first.version_id))[0] is None

    result = await apply_file(engine, SMALL | {"instances": 7, "expire_after": "2h"}, LARGE)
    assert [(v.version, v.id) for v in result.versions] == [(1, first.version_id)]
    assert await find_preset(engine) == first
    assert (await one(engine, "SELECT desired_instances FROM presets WHERE id = :id", id=first.id))[0] == 7
    for name in ("small", "large"):
        assert (await one(engine, f"{reset} AND name = '{name}'", id=first.version_id))[0] is True
    expiry = await one(engine, "SELECT expires_at - created_at FROM workspaces WHERE id = :id", id=ready)
    assert expiry[0] == timedelta(hours=2)
    activated = await events(engine, "version_activated")
    assert [(data["version"], data["replaces"], data["new"]) for _, data in activated] == [
        *[(1, None, True)] * 2,
        *[(2, 1, True)] * 2,
        *[(1, 2, False)] * 2,
    ]
    third = await apply_file(engine, SMALL, queue="third")
    assert [version.version for version in third.versions] == [3]


async def test_template_without_presets_has_a_version(engine: AsyncEngine) -> None:
    result = await apply_file(engine)
    assert [version.version for version in result.versions] == [1]
    assert "member acme/prebuilds" not in result.created, "no pool, no need"
    assert [preset for preset, _ in await events(engine, "version_activated")] == [None]
    assert not (await apply_file(engine)).changed


async def test_deleted_template_made_anew_is_another_one(engine: AsyncEngine) -> None:
    first = await make_preset(engine)
    await do(engine, "UPDATE templates SET deleted_at = now() WHERE id = :id", id=first.template_id)
    result = await apply_file(engine, {"name": "small", "instances": 1})
    second = await find_preset(engine)
    assert "template acme/python" in result.created
    assert [version.version for version in result.versions] == [1]
    for attribute in ("id", "version_id", "template_id"):
        assert getattr(first, attribute) != getattr(second, attribute)
    await do(engine, "UPDATE templates SET deleted_at = now() WHERE id = :id", id=second.template_id)
    third = await make_preset(engine)
    assert third.template_id not in (first.template_id, second.template_id)


async def test_template_deleted_during_apply_leaves_nothing_half_done(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = await make_preset(engine)
    before = await rows_of(engine)
    find = store.find_template

    async def find_then_deleted(*args: Any) -> Any:
        found = await find(*args)
        await do(engine, "UPDATE templates SET deleted_at = '2000-01-01' WHERE id = :id", id=preset.template_id)
        return found

    monkeypatch.setattr(store, "find_template", find_then_deleted)
    with pytest.raises(TemplateNotFound, match="template acme/python was deleted meanwhile"):
        await apply_file(engine, SMALL | {"parameters": {"size": "other"}})
    after = await rows_of(engine)
    assert {table for table in before if before[table] != after[table]} == {"templates"}


async def test_two_deployments_of_one_file_have_no_id_in_common(engine: AsyncEngine, empty_database_url: str) -> None:
    other = create_engine(empty_database_url)
    await migrate(other)
    ids = []
    for deployment in (engine, other):
        preset = await make_preset(deployment)
        async with deployment.connect() as connection:
            users = await connection.scalars(
                text("SELECT id FROM users WHERE name NOT IN ('prebuilds', 'prebuilds-drill')")
            )
            made = await record_prebuilds(deployment, preset, 3)
            builds = [build_id_of(workspace_id, 1) for workspace_id in made]
            ids.append({*astuple(preset), *users, *made, *builds, (await read_identity(deployment)).deployment_id})
    await other.dispose()
    assert not ids[0] & ids[1]
