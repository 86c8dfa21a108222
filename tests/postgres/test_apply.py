"""`apply` against PostgreSQL: the rows it writes, changes in place, and leaves unchanged."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.templates import ApplyResult, apply
from tests.builders import apply_file, find_preset, make_preset, template_file
from tests.rows import add_prebuild, do, events, one, rows_of

SMALL: dict[str, Any] = {"name": "small", "parameters": {"size": "small"}, "instances": 3}
LARGE: dict[str, Any] = {"name": "large", "parameters": {"size": "large"}, "instances": 1}


# --- First, and again -------------------------------------------------------------------------------------------------


async def test_first_apply_creates_everything(engine: AsyncEngine) -> None:
    result = await apply_file(engine, SMALL, LARGE, members=["alice", "bob"])
    preset = await find_preset(engine)
    assert result == ApplyResult(
        created=[
            "organization acme",
            "user alice",
            "member acme/alice",
            "user bob",
            "member acme/bob",
            "member acme/prebuilds",
            "template acme/python",
            "preset acme/python/small",
            "preset acme/python/large",
        ],
        versions=[{"template": "acme/python", "version": 1, "id": preset.version_id}],
    )
    assert tuple(
        await one(engine, "SELECT name, value FROM preset_parameters WHERE preset_id = :id", id=preset.id)
    ) == (
        "size",
        "small",
    )


async def test_every_key_reaches_its_column(engine: AsyncEngine) -> None:
    policy = {
        "expire_after": "24h",
        "default": True,
        "claim_parameters": ["token", "branch"],
        "timezone": "Europe/Berlin",
        "schedule": [
            {"cron": "* 8-18 * * 1-5", "instances": 10},
            {"cron": "* 0-6 * * *", "instances": 0},
            {"cron": "* 7 * * *", "min": 4},
        ],
    }
    await apply_file(
        engine,
        SMALL | policy,
        queue="gpu",
        default_ttl="8h",
        build_timeout="10m",
        ready_timeout="30s",
        prebuilds=False,
    )
    preset = await find_preset(engine)
    row = await one(engine, "SELECT * FROM presets WHERE id = :id", id=preset.id)
    assert (row.desired_instances, row.expire_after, row.timezone) == (3, timedelta(hours=24), "Europe/Berlin")
    assert (row.is_default, row.claim_parameters) == (True, ["branch", "token"])
    windows = await one(
        engine,
        "SELECT jsonb_agg(jsonb_build_array(cron, instances, least) ORDER BY position) AS all FROM preset_schedules",
    )
    assert windows.all == [["* 8-18 * * 1-5", 10, False], ["* 0-6 * * *", 0, False], ["* 7 * * *", 4, True]]
    template = await one(engine, "SELECT * FROM templates")
    assert (template.default_ttl, template.build_timeout) == (timedelta(hours=8), timedelta(minutes=10))
    assert template.ready_timeout == timedelta(seconds=30)
    version = await one(engine, "SELECT provisioner, queue, source ->> 'command' AS command FROM template_versions")
    assert tuple(version) == ("process", "gpu", '["sleep", "infinity"]')
    assert (await one(engine, "SELECT prebuilds_enabled FROM organizations")).prebuilds_enabled is False


async def test_same_file_again_touches_no_row(engine: AsyncEngine) -> None:
    file = template_file(
        SMALL | {"timezone": "UTC", "schedule": [{"cron": "* 8-18 * * 1-5", "instances": 10}], "expire_after": "1h"},
        LARGE | {"timezone": "UTC", "schedule": [{"cron": "* 8 * * *", "min": 10}]},
        {"name": "huge", "claim_parameters": ["token", "branch"], "parameters": {"b": "1", "a": "2"}},
        default_ttl="8h",
    )
    await apply(engine, file, actor="tester")
    before = await rows_of(engine)
    result = await apply(engine, file, actor="tester")
    assert await rows_of(engine) == before
    assert (result.created, result.updated, result.versions) == ([], [], [])
    assert result.unchanged == [
        "organization acme",
        "member acme/alice",
        "member acme/bob",
        "template acme/python",
        "preset acme/python/small",
        "preset acme/python/large",
        "preset acme/python/huge",
    ]


async def test_order_of_presets_and_keys_is_no_change(engine: AsyncEngine) -> None:
    large = LARGE | {"claim_parameters": ["a", "b"]}
    await apply_file(engine, SMALL, large, source={"a": 1, "b": {"c": [1], "d": 2}})
    before = await rows_of(engine)
    await apply_file(engine, large | {"claim_parameters": ["b", "a"]}, SMALL, source={"b": {"d": 2, "c": [1]}, "a": 1})
    assert await rows_of(engine) == before


# --- Policy changes in place ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "column", "stored"),
    [
        ({"instances": 5}, "desired_instances", 5),
        ({"instances": 0}, "desired_instances", 0),
        ({"instances": None}, "desired_instances", None),
        ({"expire_after": "2d"}, "expire_after", timedelta(days=2)),
        ({"default": True}, "is_default", True),
        ({"claim_parameters": ["token"]}, "claim_parameters", ["token"]),
        ({"timezone": "Asia/Tokyo"}, "timezone", "Asia/Tokyo"),
        ({"timezone": "UTC", "schedule": [{"cron": "* 1 * * *", "instances": 2}]}, "timezone", "UTC"),
    ],
)
async def test_policy_of_a_preset_changes_in_place(
    engine: AsyncEngine, policy: dict[str, Any], column: str, stored: Any
) -> None:
    await apply_file(engine, SMALL, LARGE)
    before = await find_preset(engine)
    result = await apply_file(engine, SMALL | policy, LARGE)
    assert result.updated == ["preset acme/python/small"]
    assert (result.created, result.versions) == ([], [])
    assert await find_preset(engine) == before
    assert (await one(engine, f"SELECT {column} FROM presets WHERE id = :id", id=before.id))[0] == stored
    assert (await one(engine, "SELECT count(*) FROM template_versions"))[0] == 1
    assert [preset for preset, _ in await events(engine, "policy_changed")] == [before.id]


async def test_policy_left_out_of_an_entry_is_taken_back(engine: AsyncEngine) -> None:
    schedule = {"timezone": "UTC", "schedule": [{"cron": "* 1 * * *", "instances": 2}]}
    await apply_file(engine, SMALL | schedule | {"expire_after": "1h"}, default_ttl="8h")
    result = await apply_file(engine, SMALL)
    assert result.updated == ["template acme/python", "preset acme/python/small"]
    row = await one(engine, "SELECT *, (SELECT count(*) FROM preset_schedules) AS windows FROM presets")
    assert (row.timezone, row.expire_after, row.windows) == (None, None, 0)
    assert (await one(engine, "SELECT default_ttl FROM templates")).default_ttl is None


@pytest.mark.parametrize("key", ["default_ttl", "build_timeout", "ready_timeout"])
async def test_limits_of_a_template_change_in_place(engine: AsyncEngine, key: str) -> None:
    await apply_file(engine, SMALL)
    result = await apply_file(engine, SMALL, **{key: "90s"})
    assert (result.created, result.updated, result.versions) == ([], ["template acme/python"], [])
    assert (await one(engine, f"SELECT {key} FROM templates"))[0] == timedelta(seconds=90)
    ((preset, data),) = await events(engine, "policy_changed")
    assert preset is None
    assert data["what"] == "template acme/python"
    assert data["changes"][f"{key}_seconds"][1] == 90


async def test_feature_is_switched_by_its_key_and_left_alone_without(engine: AsyncEngine) -> None:
    async def enabled() -> bool:
        return bool((await one(engine, "SELECT prebuilds_enabled FROM organizations"))[0])

    await apply_file(engine, SMALL)
    assert await enabled()
    assert (await apply_file(engine, SMALL, prebuilds=False)).updated == ["organization acme"]
    assert not await enabled()
    assert not (await apply_file(engine, SMALL)).changed
    assert not await enabled()
    assert (await apply_file(engine, SMALL, prebuilds=True)).updated == ["organization acme"]
    assert await enabled()


async def test_changed_expiry_reaches_the_prebuilds_that_can_be_claimed(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, expire_after="1h")
    ready = await add_prebuild(engine, preset, timedelta(minutes=10))
    starting = await add_prebuild(engine, preset, timedelta(minutes=10), claimable=False)
    other = await add_prebuild(engine, await make_preset(engine, template="go"), timedelta(minutes=10))
    read = "SELECT expires_at - created_at AS after FROM workspaces WHERE id = :id"
    untouched = [await one(engine, read, id=id_) for id_ in (starting, other)]

    await make_preset(engine, expire_after="3h")
    assert (await one(engine, read, id=ready)).after == timedelta(hours=3)
    await make_preset(engine, expire_after="0s")
    assert (await one(engine, read, id=ready)).after is None
    assert [await one(engine, read, id=id_) for id_ in (starting, other)] == untouched


# --- What a file leaves out -------------------------------------------------------------------------------------------


async def test_entries_omitted_from_the_file_stay_unchanged(engine: AsyncEngine) -> None:
    await apply_file(engine, SMALL, members=["alice", "bob"])
    await apply_file(engine, SMALL, template="go", members=["alice", "bob"])
    await apply_file(engine, SMALL, organization="umbrella", members=["bob"])
    await do(engine, "UPDATE templates SET deprecated = true WHERE name = 'python'")
    before = await rows_of(engine)
    result = await apply_file(engine, SMALL, members=["alice"])
    assert not result.changed
    assert await rows_of(engine) == before


async def test_deprecated_template_stays_so_under_new_content(engine: AsyncEngine) -> None:
    await apply_file(engine, SMALL)
    await do(engine, "UPDATE templates SET deprecated = true")
    await apply_file(engine, SMALL | {"instances": 9}, queue="gpu")
    assert (await one(engine, "SELECT deprecated FROM templates")).deprecated


async def test_known_user_is_only_made_a_member(engine: AsyncEngine) -> None:
    await do(engine, "INSERT INTO users (id, name, key) VALUES (:id, 'alice', 'alice')", id=uuid4())
    result = await apply_file(engine, members=["alice", "carol"])
    assert [entry for entry in result.created if "alice" in entry or "carol" in entry] == [
        "member acme/alice",
        "user carol",
        "member acme/carol",
    ]
    members = await one(engine, "SELECT count(*) FROM organization_members m JOIN users u ON u.id = m.user_id")
    assert members[0] == 2


async def test_no_members_are_no_error(engine: AsyncEngine) -> None:
    assert "organization acme" in (await apply_file(engine, members=[])).created


# --- Dry run, twice at once, events -----------------------------------------------------------------------------------


async def test_dry_run_answers_the_same_and_writes_nothing(engine: AsyncEngine) -> None:
    await apply_file(engine, SMALL, LARGE)
    before = await rows_of(engine)
    file = template_file(SMALL | {"instances": 8}, members=["alice", "dora"], queue="gpu")
    dry = await apply(engine, file, actor="tester", dry_run=True)
    assert await rows_of(engine) == before
    assert dry.changed
    assert await apply(engine, file, actor="tester") == dry


async def test_two_applies_at_once_are_one_after_the_other(engine: AsyncEngine) -> None:
    file = template_file(SMALL, LARGE)
    results = await asyncio.gather(*(apply(engine, file, actor="tester") for _ in range(8)))
    assert [result.changed for result in results].count(True) == 1
    assert (await one(engine, "SELECT count(*) FROM template_versions"))[0] == 1

    different = [template_file(SMALL, queue=f"q{n}") for n in range(8)]
    results = await asyncio.gather(*(apply(engine, file, actor="tester") for file in different))
    assert sorted(version.version for result in results for version in result.versions) == list(range(2, 10))
    active = await one(
        engine, "SELECT v.number, v.queue FROM templates t JOIN template_versions v ON v.id = t.active_version_id"
    )
    assert active.number == 9


async def test_events_tell_who_changed_what(engine: AsyncEngine) -> None:
    await apply_file(engine, SMALL)
    preset = await find_preset(engine)
    ((_, applied),) = await events(engine, "applied")
    assert applied["created"][0] == "organization acme"
    assert applied["versions"] == [{"template": "acme/python", "version": 1, "id": str(preset.version_id)}]
    ((activated_preset, activated),) = await events(engine, "version_activated")
    assert activated_preset == preset.id
    assert (activated["template"], activated["version"], activated["replaces"]) == ("acme/python", 1, None)
    assert await events(engine, "policy_changed") == []

    changed = SMALL | {"instances": 5, "expire_after": "1h"}
    await apply(engine, template_file(changed), actor="erin")
    assert await events(engine, "policy_changed") == [
        (
            preset.id,
            {
                "what": "preset acme/python/small",
                "changes": {"instances": [3, 5], "expire_after_seconds": [None, 3600.0]},
            },
        )
    ]
    assert (await one(engine, "SELECT DISTINCT actor FROM events WHERE kind = 'policy_changed'")).actor == "erin"
    assert len(await events(engine, "applied")) == 2


async def test_new_version_with_new_policy_tells_of_both(engine: AsyncEngine) -> None:
    await apply_file(engine, SMALL)
    await apply_file(engine, SMALL | {"instances": 4}, queue="gpu")
    preset = await find_preset(engine)
    assert [(id_, data["changes"]) for id_, data in await events(engine, "policy_changed")] == [
        (preset.id, {"instances": [3, 4]})
    ]
