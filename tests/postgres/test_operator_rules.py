"""Operators' actions on pools, on a real server: idempotent, without effect on claims, and all recorded."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import (
    InvalidInput,
    PrebuildsError,
    PresetNotFound,
    TemplateNotFound,
    TemplateUnavailable,
)
from prebuilds.planning.plan import deletions, state_of
from prebuilds.planning.rules import Rules
from prebuilds.store.claims import ClaimStore
from prebuilds.store.evidence import prune
from prebuilds.store.loop import pause
from prebuilds.store.pool import create_prebuilds
from prebuilds.store.preset_list import list_presets
from prebuilds.store.presets import invalidate, lift_holds
from prebuilds.store.snapshots import next_pass_number
from prebuilds.store.templates import delete_template, deprecate_template, list_templates
from tests.builders import MadePreset, apply_file, find_preset, make_preset
from tests.postgres.pool_steps import (
    RULES,
    claim,
    fail,
    make_ready,
    planned_ids,
    record_prebuilds,
    snapshot_of,
    workspace_ids,
)
from tests.rows import do, events, one, rows_of

PATH, TEMPLATE = "acme/python/small", "acme/python"


# --- Presets ---------------------------------------------------------------------------------------------------------


async def test_an_invalidated_prebuild_is_no_longer_claimed_and_is_replaced(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    preset = await make_preset(engine, instances=3)
    old = await make_ready(engine, preset, 2)
    await record_prebuilds(engine, preset, 1)
    await fail(engine, preset, 1)
    done = await invalidate(engine, "ops", preset=PATH, template=None)
    assert (done.preset_ids, done.prebuilds) == ([preset.id], 3), "two ready, one being made; a failed one is evidence"
    assert (await claim(store, preset)).result is None, "at once, before any pass"
    assert set(deletions(await snapshot_of(engine, preset))) == set(old)
    [fresh] = await make_ready(engine, preset, 1)
    assert workspace_ids([await claim(store, preset)]) == [fresh]
    assert await events(engine, "invalidated") == [(preset.id, {"prebuilds": 3})]


async def test_a_prebuild_created_at_the_invalidation_instant_is_valid(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine)
    [ready] = await make_ready(engine, preset, 1)
    await invalidate(engine, "ops", preset=str(preset.id), template=None)
    await do(engine, "UPDATE workspaces SET created_at = (SELECT last_invalidated_at FROM presets)")
    assert workspace_ids([await claim(store, preset)]) == [ready]


async def test_a_template_is_invalidated_with_all_its_active_presets(engine: AsyncEngine) -> None:
    await apply_file(engine, {"name": "big", "instances": 1}, {"name": "small", "instances": 1})
    elsewhere = await make_preset(engine, organization="other")
    big, small = await find_preset(engine, preset="big"), await find_preset(engine)
    done = await invalidate(engine, "ops", preset=None, template=TEMPLATE)
    assert set(done.preset_ids) == {big.id, small.id}
    touched = await one(engine, "SELECT array_agg(id) FROM presets WHERE last_invalidated_at IS NOT NULL")
    assert set(touched.array_agg) == {big.id, small.id}
    assert elsewhere.id not in {preset for preset, _ in await events(engine, "invalidated")}


HOLDS = [
    ("backoff", 1, "ProvisionFailed"),
    ("hard_limited", 3, "ProvisionFailed"),
    ("validation_failed", 1, "InvalidSource"),
]


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize(("hold", "failures", "error_type"), HOLDS, ids=[hold[0] for hold in HOLDS])
async def test_a_hold_is_lifted_once(
    engine: AsyncEngine, hold: str, failures: int, error_type: str, paused: bool
) -> None:
    preset = await make_preset(engine, instances=2)
    await fail(engine, preset, failures, error_type)
    if paused:
        await pause(engine, "ops", "upgrade")
    else:
        held = state_of(await snapshot_of(engine, preset)).held
        assert held is not None
        assert held.reason == hold
    lifted = await lift_holds(engine, PATH, RULES, "ops")
    assert (lifted.preset.id, lifted.hold) == (preset.id, hold)
    held = state_of(await snapshot_of(engine, preset)).held
    assert (held.reason if held else None) == ("paused" if paused else None)
    [(subject, data)] = await events(engine, "holds_lifted")
    assert (subject, data["hold"], data["until"] is not None) == (preset.id, hold, hold == "backoff")
    rows = await rows_of(engine)
    assert (await lift_holds(engine, str(preset.id), RULES, "ops")).hold is None
    assert await rows_of(engine) == rows, "nothing is held, nothing is written"


async def test_presets_are_listed_as_they_are_defined(engine: AsyncEngine) -> None:
    window = {"cron": "* 9-17 * * 1-5", "instances": 7}
    small: dict[str, Any] = {"name": "small", "instances": 2, "expire_after": "1h", "parameters": {"size": "s"}}
    small |= {"claim_parameters": ["token"], "default": True, "timezone": "Europe/Berlin", "schedule": [window]}
    await apply_file(engine, {"name": "small", "instances": 9}, {"name": "gone", "instances": 1})
    await apply_file(engine, small, {"name": "none"})
    await make_preset(engine, template="go")
    await make_preset(engine, template="deleted")
    await delete_template(engine, "acme/deleted", "ops")
    listed = await list_presets(engine, RULES)
    assert [f"{p.template}/{p.preset}" for p in listed] == ["go/small", "python/none", "python/small"]
    _, none, found = listed
    assert (none.instances, none.active, none.schedule, none.parameters) == (None, False, [], {})
    assert (found.version, found.active, found.instances, found.expire_after_seconds) == (2, True, 2, 3600)
    assert (found.default, found.parameters, found.claim_parameters) == (True, {"size": "s"}, ["token"])
    assert found.timezone == "Europe/Berlin"
    assert [w.model_dump() for w in found.schedule] == [window | {"least": False}]
    assert [p.preset for p in await list_presets(engine, RULES, "acme/go")] == ["small"]
    assert not any(p.active for p in await list_presets(engine, Rules(enabled=False)))


# --- Templates -------------------------------------------------------------------------------------------------------


async def test_a_deprecated_template_rests_until_it_is_restored(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=1)
    ready = await make_ready(engine, preset, 1)
    done = await deprecate_template(engine, TEMPLATE, "ops")
    assert (done.change.deprecated, done.change.changed, done.preset_ids) == (True, True, [preset.id])
    with pytest.raises(TemplateUnavailable):
        await claim(store, preset)
    assert list(deletions(await snapshot_of(engine, preset))) == ready
    rows = await rows_of(engine)
    again = await deprecate_template(engine, str(preset.template_id), "ops")
    assert (again.change.deprecated, again.change.changed, again.preset_ids) == (True, False, [])
    assert await rows_of(engine) == rows
    assert (await deprecate_template(engine, TEMPLATE, "ops", undo=True)).change.changed
    assert not (await deprecate_template(engine, TEMPLATE, "ops", undo=True)).change.changed
    assert workspace_ids([await claim(store, preset)]) == ready
    for kind in ("template_deprecated", "template_restored"):
        assert await events(engine, kind) == [(preset.id, {"template": TEMPLATE})]


async def test_a_deleted_template_may_be_made_anew(engine: AsyncEngine, store: ClaimStore) -> None:
    old = await make_preset(engine, instances=1)
    ready = await make_ready(engine, old, 2)
    taken = workspace_ids([await claim(store, old)])
    assert (await delete_template(engine, TEMPLATE, "ops")).change.changed
    again = await delete_template(engine, TEMPLATE, "ops")
    assert (again.change.deleted, again.change.changed, again.change.id) == (True, False, old.template_id)
    with pytest.raises(TemplateNotFound):
        await claim(store, old)
    assert set(deletions(await snapshot_of(engine, old))) == set(ready) - set(taken)
    for refused in (
        deprecate_template(engine, TEMPLATE, "ops"),
        invalidate(engine, "ops", preset=None, template=TEMPLATE),
        list_presets(engine, RULES, TEMPLATE),
    ):
        with pytest.raises(TemplateNotFound):
            await refused
    with pytest.raises(PresetNotFound):
        await invalidate(engine, "ops", preset=PATH, template=None)

    new = await make_preset(engine, instances=1)
    assert {old.id, old.template_id, old.version_id}.isdisjoint({new.id, new.template_id, new.version_id})
    [template] = await list_templates(engine)
    assert (template.id, template.version, template.presets, template.workspaces) == (new.template_id, 1, 1, 0)
    assert not (await delete_template(engine, str(old.template_id), "ops")).change.changed, (
        "by its id it is the old one"
    )
    assert (await one(engine, "SELECT deleted_at FROM workspaces WHERE id = :id", id=taken[0])).deleted_at is None


async def test_operators_appliers_and_passes_never_wait_in_a_circle(engine: AsyncEngine) -> None:
    names = [f"p{n}" for n in range(6)]
    await apply_file(engine, *[{"name": name, "instances": 1} for name in names])
    presets = [await find_preset(engine, preset=name) for name in names]

    async def reconcile(preset: MadePreset) -> None:
        number = await next_pass_number(engine)
        await create_prebuilds(engine, preset.id, number, await planned_ids(engine, preset.id, number, 1), RULES)

    for n in range(8):
        order = names if n % 2 else names[::-1]
        await asyncio.gather(
            apply_file(engine, *[{"name": name, "instances": 2 + n} for name in order]),
            invalidate(engine, "ops", preset=None, template=TEMPLATE),
            deprecate_template(engine, TEMPLATE, "ops", undo=bool(n % 2)),
            prune(engine, "ops", failed=True, stopped=True),
            *[reconcile(preset) for preset in presets],
        )
    assert len(await events(engine, "invalidated")) == 8 * len(names)


# --- Names that stand for nothing ------------------------------------------------------------------------------------

UNKNOWN = [
    ("nonsense", InvalidInput),
    ("acme/python", InvalidInput),
    ("acme/python/none", PresetNotFound),
    ("acme/none/small", PresetNotFound),
    ("none/python/small", PresetNotFound),
    (str(uuid4()), PresetNotFound),
]


@pytest.mark.parametrize(("reference", "error"), UNKNOWN, ids=[reference for reference, _ in UNKNOWN[:-1]] + ["an id"])
async def test_an_unknown_preset_is_refused_by_name(
    engine: AsyncEngine, reference: str, error: type[PrebuildsError]
) -> None:
    await make_preset(engine)
    rows = await rows_of(engine)
    for refused in (
        invalidate(engine, "ops", preset=reference, template=None),
        lift_holds(engine, reference, RULES, "ops"),
        prune(engine, "ops", failed=True, stopped=True, preset=reference),
    ):
        with pytest.raises(error) as refusal:
            await refused
        assert list(refusal.value.details) == ["preset"]
    assert await rows_of(engine) == rows


@pytest.mark.parametrize(
    ("reference", "error"),
    [("nonsense", InvalidInput), ("acme/none", TemplateNotFound), (str(UUID(int=1)), TemplateNotFound)],
)
async def test_an_unknown_template_is_refused_by_name(
    engine: AsyncEngine, reference: str, error: type[PrebuildsError]
) -> None:
    await make_preset(engine)
    rows = await rows_of(engine)
    for refused in (
        invalidate(engine, "ops", preset=None, template=reference),
        list_presets(engine, RULES, reference),
        deprecate_template(engine, reference, "ops"),
        delete_template(engine, reference, "ops"),
    ):
        with pytest.raises(error) as refusal:
            await refused
        assert list(refusal.value.details) == ["template"]
    assert await rows_of(engine) == rows


async def test_a_path_means_the_active_version_and_an_id_any(engine: AsyncEngine) -> None:
    old = await make_preset(engine)
    await apply_file(engine, {"name": "small", "instances": 1, "parameters": {"a": "b"}})
    new = await find_preset(engine)
    by_path = await invalidate(engine, "ops", preset=PATH, template=None)
    assert set(by_path.preset_ids) == {old.id, new.id}, "the older one may still serve"
    assert (await invalidate(engine, "ops", preset=str(old.id), template=None)).preset_ids == [old.id]
