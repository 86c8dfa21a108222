"""The page's contents about pools, claims, workspaces, leases, drills and rollouts, without scripts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.background.sizing import Sizer
from prebuilds.store import drills
from prebuilds.store.drills import DrillEnd
from tests.builders import apply_file, find_preset, make_preset
from tests.postgres.canary_steps import judge, tried
from tests.postgres.http_steps import Server, serving
from tests.postgres.page_steps import OPERATOR, OWN, TOKENS, first_events, sign_in, words_of
from tests.postgres.pool_steps import RULES, NotedDispatcher, make_ready
from tests.postgres.rollout_steps import roll
from tests.rows import do, one


@pytest.fixture
async def server(engine: AsyncEngine, database_url: str) -> AsyncIterator[Server]:
    async with serving(engine, database_url, TOKENS) as server:
        del server.http.headers["Authorization"]
        yield server


async def test_an_organization_at_its_limit_is_an_alarm(engine: AsyncEngine, server: Server) -> None:
    await apply_file(engine, {"name": "small", "instances": 1}, limits={"workspaces": 1, "claims_per_minute": 1})
    await make_ready(engine, await find_preset(engine), 1)
    await server.put("c1", {"Authorization": f"Bearer {OPERATOR}"})
    http = await sign_in(server)
    shown = words_of((await http.get("/")).text)
    assert "acme has 1 of 1 workspaces, so claims are refused" in shown


async def test_a_lease_is_shown_and_renewed(engine: AsyncEngine, server: Server) -> None:
    await make_ready(engine, await make_preset(engine), 2)
    bearer = {"Authorization": f"Bearer {OPERATOR}"}
    leased = (await server.put("c1", bearer, lease_seconds=600)).json()
    plain = (await server.put("c2", bearer, name="two")).json()
    http = await sign_in(server)
    shown, other = [(await http.get(f"/workspaces/{claimed['workspace_id']}")).text for claimed in (leased, plain)]
    assert f"/acts/renew?target={leased['workspace_id']}" in shown
    assert "<dt>Lease</dt><dd>until " in shown
    assert "/acts/renew" not in other
    assert "<dt>Lease</dt>" not in other
    renewed = await http.post("/acts/renew", data={"target": leased["workspace_id"]}, headers=OWN)
    assert renewed.headers["location"] == f"/workspaces/{leased['workspace_id']}?done=renew"
    until = (await one(engine, "SELECT lease_until FROM workspaces WHERE lease IS NOT NULL")).lease_until
    assert until > datetime.fromisoformat(leased["lease_until"])


async def test_a_claim_and_a_workspace_have_pages(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    bearer = {"Authorization": "Bearer operator"}
    body = {"preset": "acme/python/small", "owner": "alice", "name": "dev"}
    claimed = (await server.http.put("/v1/claims/order%2F1", json=body, headers=bearer)).json()
    http = await sign_in(server)
    claim = await http.get("/claims/order%2F1")
    assert (claim.status_code, "prebuilt" in words_of(claim.text)) == (200, True)
    assert f"/workspaces/{claimed['workspace_id']}" in claim.text
    workspace = words_of((await http.get(f"/workspaces/{claimed['workspace_id']}")).text)
    assert "alice/dev" in workspace
    assert "claimed by operator as alice/dev" in workspace or "claimed by alice as alice/dev" in workspace
    assert "event: head" in await first_events(http, "/live/claims/order%2F1", 2)
    found = await http.get("/find?what=alice/dev")
    assert found.headers["location"] == f"/workspaces/{claimed['workspace_id']}"
    assert (await http.get("/find?what=order/1")).status_code in (303, 404)
    missing = await http.get("/claims/none")
    assert (missing.status_code, "no claim none is recorded" in missing.text) == (404, True)
    own = await sign_in(server, "claimer")
    assert (await own.get(f"/workspaces/{claimed['workspace_id']}")).status_code == 200, "everybody sees their own"


async def test_the_page_tells_the_size_that_a_target_asks_for(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    target = {"hit_rate": 0.99, "wait_p95_seconds": None, "min": 2, "max": 40, "max_idle": 20, "mode": "act"}
    await do(engine, f"UPDATE presets SET target = '{json.dumps(target)}'")
    await make_ready(engine, preset, 1)
    await Sizer(engine, NotedDispatcher()).step()
    tried = {"hit_rate": 0.994, "wait_p95_seconds": 0.0, "idle_mean": 3.4}
    await do(engine, f"UPDATE preset_sizes SET outcome = '{json.dumps({'met': True, 'tried': [tried]})}'")
    await make_preset(engine, template="java")
    await make_preset(engine, template="go")
    await do(
        engine,
        f"UPDATE presets SET target = '{json.dumps(target | {'mode': 'suggest'})}' FROM templates t"
        " WHERE t.id = template_id AND t.name = 'go'",
    )
    http = await sign_in(server)

    async def read_page(template: str) -> str:
        found = words_of((await http.get(f"/presets/acme/{template}/small")).text)
        return found[found.index("Schedule") :]

    assert "It has no target. prebuilds size acme/java/small says" in await read_page("java")
    words = await read_page("go")
    assert "shown only not known yet for a hit rate of 99 %, between 2 and 40, with at most 20 ready" in words
    assert "1 prebuilds are desired at all times" in words
    words = await read_page("python")
    assert "It has no schedule: the size for its target is desired at all times." in words
    assert "Size the pool follows it 2 for a hit rate of 99 %" in words
    assert "Rule: peak of 1440 min x 1; lead time" in words
    assert "On past claims it met the target: 99.4 % found one ready, 3.4 were ready on average." in words
    answer = await http.get("/presets/acme/python/small/size")
    assert "0 claims, lead time" in words_of(answer.text)
    assert "peak of 1440 min x 1 chosen" in words_of(answer.text)
    await do(
        engine,
        "INSERT INTO preset_demand SELECT template_id, name, date_trunc('minute', now()) - n * interval '1 minute',"
        " ARRAY[1, 0, 0, 0, 0, 0], 0 FROM presets, generate_series(1, 100) AS n",
    )
    answer = await http.get("/presets/acme/python/small/size")
    assert '<svg class="sizes"' in answer.text


async def test_the_page_tells_how_drills_went(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    http = await sign_in(server)
    async with engine.begin() as connection:
        drill_id = await drills.request_drill(connection, preset.template_id, "ops")
    await drills.begin_drill(engine, drill_id, RULES)
    end = DrillEnd(drill_id, "failed", "check", "the command ended with <b>1</b>", ["no module <i>numpy</i>"], 0.4)
    await drills.end_drill(engine, end)
    page = (await http.get("/presets/acme/python/small")).text
    assert "the command ended with &lt;b&gt;1&lt;/b&gt;" in page
    assert "no module &lt;i&gt;numpy&lt;/i&gt;" in page
    assert "drill failed at check: the command ended" in words_of(page), "among the decisions, too"


async def test_the_page_tells_how_a_rollout_stands(engine: AsyncEngine, server: Server) -> None:
    small = {"name": "small", "instances": 2}
    await apply_file(engine, small)
    await make_ready(engine, await find_preset(engine), 2)
    await apply_file(engine, small | {"parameters": {"n": "2"}})
    await roll(engine, bad_version=2, error_type="InvalidSource")
    http = await sign_in(server)
    shown = words_of((await http.get("/presets/acme/python/small")).text)
    assert "Rollout from version 1 to 2: failed, small: validation_failed ; 0 % of the prebuilds are new" in shown
    assert "rollout to version 2 failed, the old version stays: small: validation_failed" in shown


async def test_the_page_tells_how_a_canary_stands(engine: AsyncEngine, server: Server) -> None:
    await tried(engine, 4, percent=50)
    shown = words_of((await (await sign_in(server)).get("/presets/acme/python/small")).text)
    assert (
        "Canary of version 2: running ; it gets 50 % of each pool and of claims by name: 0 of 0 claims so far. "
        "It passes after 4 hand-overs, 0 so far, and in 29 min at the earliest. Of version 2 0 of 2 were bad: "
    ) in shown
    assert "of version 1 meanwhile 0 of 0 were bad." in shown


async def test_the_page_tells_why_a_canary_went_back(engine: AsyncEngine, server: Server) -> None:
    _, new = await tried(engine, 4, percent=50)
    await do(engine, "UPDATE workspace_builds SET status = 'failed' WHERE preset_id = :id", id=new.id)
    await judge(engine)
    shown = words_of((await (await sign_in(server)).get("/presets/acme/python/small")).text)
    assert "Version 2 went back to version 1 by itself: failed: canary: 2 of 2 were bad" in shown
    assert "Canary of version 2: failed ; it gets 50 %" in shown
    assert "Rollout from version 2 to 1: running" in shown
