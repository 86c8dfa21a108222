"""Claims during changes: the same answer after their preset is gone, and the version that became active meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import (
    ClaimIdReused,
    InvalidInput,
    PrebuildsError,
    PresetNotFound,
    TemplateNotFound,
    TemplateUnavailable,
)
from prebuilds.operations import claim_targets
from prebuilds.operations.claim_attempts import VERSION_TRIES_MAX
from prebuilds.payloads import ClaimResult
from prebuilds.planning.choose import PresetOffer
from prebuilds.store.claim_offers import offers_of_template
from prebuilds.store.templates import delete_template, deprecate_template
from tests.builders import apply_file, find_preset
from tests.postgres.pool_steps import Desk, got, make_ready
from tests.rows import do, rows_of

BY_TEMPLATE = {"preset": None, "template": "acme/python", "parameters": {"size": "small"}}
BY_PATH = {"claim_parameters": {"token": "x"}}
SMALL = {"name": "small", "instances": 1, "parameters": {"size": "small"}, "claim_parameters": ["token"]}


@dataclass
class Versions:
    """New versions that become active right after a claim by template has read the presets of the one before."""

    coming: int = 0
    ready: int = 2
    """Prebuilds of each."""
    made: int = 0


@pytest.fixture
def versions(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> Versions:
    versions = Versions()

    async def overtaken(*args: Any) -> list[PresetOffer]:
        offers = await offers_of_template(*args)
        if versions.coming:
            versions.coming -= 1
            versions.made += 1
            await apply_file(engine, SMALL, source={"command": ["sleep", str(versions.made)]})
            await make_ready(engine, await find_preset(engine), versions.ready)
        return offers

    monkeypatch.setattr(claim_targets, "offers_of_template", overtaken)
    return versions


# --- The same answer again -------------------------------------------------------------------------------------------


async def _fits_no_longer(engine: AsyncEngine) -> None:
    await apply_file(engine, {"name": "small", "instances": 1, "parameters": {"size": "large"}})


async def _takes_no_token(engine: AsyncEngine) -> None:
    await apply_file(engine, SMALL | {"claim_parameters": []})


async def _deleted(engine: AsyncEngine) -> None:
    await delete_template(engine, "acme/python", "ops")


@pytest.mark.parametrize(
    ("by", "change", "refused"),
    [
        (BY_TEMPLATE, _fits_no_longer, PresetNotFound),
        (BY_TEMPLATE, _deleted, TemplateNotFound),
        (BY_PATH, _takes_no_token, InvalidInput),
    ],
)
async def test_an_answer_outlives_its_preset_and_template(
    engine: AsyncEngine,
    desk: Desk,
    by: dict[str, Any],
    change: Callable[[AsyncEngine], Awaitable[None]],
    refused: type[PrebuildsError],
) -> None:
    await apply_file(engine, SMALL)
    preset = await find_preset(engine)
    await make_ready(engine, preset, 4)
    claimed = await desk.ask("one", name="dev", **by)
    many = await desk.ask_all("many", ["b", "a"], **by)
    waited = await desk.ask("waited", name="waited", on_empty="wait", **by)
    late = await desk.create_instead("late", name="late", **by)
    started = list(desk.dispatcher.started)
    await change(engine)
    rows = await rows_of(engine)

    assert await desk.ask("one", name="dev", **by) == claimed
    assert await desk.ask_all("many", ["b", "a"], **by) == many
    assert await desk.ask("waited", name="waited", on_empty="wait", **by) == waited
    assert await desk.create_instead("late", name="late", **by) == late
    assert desk.dispatcher.started == started
    with pytest.raises(ClaimIdReused):
        await desk.ask("one", name="other", **by)
    with pytest.raises(ClaimIdReused):
        await desk.ask_all("many", ["a", "b"], **by)
    assert await rows_of(engine) == rows
    with pytest.raises(refused):
        await desk.ask("another", name="another", **by)
    with pytest.raises(refused):
        await desk.ask_all("more", ["c", "d"], **by)
    await do(engine, "DELETE FROM events WHERE kind = 'claim_near_miss'")  # all that a new claim may leave
    assert await rows_of(engine) == rows


# --- A version that comes meanwhile ----------------------------------------------------------------------------------


async def test_a_claim_by_template_goes_to_the_version_that_came_meanwhile(
    engine: AsyncEngine, versions: Versions, desk: Desk
) -> None:
    await apply_file(engine, SMALL)
    versions.coming = 2
    claimed = await desk.ask("one", **BY_TEMPLATE)
    assert isinstance(claimed, ClaimResult)
    assert claimed.preset_id == (await find_preset(engine)).id
    versions.coming = 2
    many = await desk.ask_all("many", ["a", "b"], **BY_TEMPLATE)
    assert {c.preset_id for c in many.claims} == {(await find_preset(engine)).id}

    versions.ready, versions.coming = 0, 2
    await desk.wait("waits", **BY_TEMPLATE)
    [made] = await make_ready(engine, await find_preset(engine), 1)
    assert got(await desk.look("waits")) == made

    versions.coming = VERSION_TRIES_MAX
    with pytest.raises(TemplateUnavailable):
        await desk.ask("never", **BY_TEMPLATE)


async def test_a_claim_of_a_deprecated_template_is_refused(engine: AsyncEngine, desk: Desk) -> None:
    await apply_file(engine, SMALL)
    await deprecate_template(engine, "acme/python", "ops")
    with pytest.raises(TemplateUnavailable):
        await desk.ask("one", **BY_TEMPLATE)
