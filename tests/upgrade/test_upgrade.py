"""The short version of an upgrade under claims; `make upgrade` makes 500 of them and kills 40 workers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from prebuilds.stack.postgres import EmbeddedPostgres
from prebuilds.stack.temporal_server import TemporalDevServer
from tests.upgrade.campaign import Upgrade
from tests.upgrade.releases import BEFORE, release_before, this_release
from tests.upgrade.traffic import Plan

SHORT = Plan(claims=20, pool=4, parallel=4, kills=2)


@pytest.mark.timeout(300)
def test_two_releases_side_by_side_lose_nothing_and_give_nothing_twice(tmp_path: Path) -> None:
    old = release_before(tmp_path / "before", own_venv=False)
    if old is None:
        pytest.skip(f"this checkout has no history that reaches back to {BEFORE}")
    postgres, temporal = (
        EmbeddedPostgres(tmp_path / "postgres", durable=False),
        TemporalDevServer(tmp_path / "temporal"),
    )
    try:
        places = {"PREBUILDS_DATABASE_URL": postgres.start(), "TEMPORAL_ADDRESS": asyncio.run(temporal.start())}
        upgrade = Upgrade(old, this_release(), tmp_path, places, roles=("all",))
        try:
            seen = asyncio.run(upgrade.run(SHORT, print))
        finally:
            upgrade.end()
    finally:
        temporal.stop()
        postgres.stop()
    assert seen.answered == SHORT.claims
    assert upgrade.kills == {"all of the release before": 1, "all of this release": 1}
