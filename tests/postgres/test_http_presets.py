"""Presets and the status over HTTP, by the real application on a real database; Temporal is away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.builders import make_preset
from tests.postgres.http_steps import KnownTokens, Server, person, serving
from tests.postgres.pool_steps import begin_prebuilds, fail, make_ready
from tests.rows import do, events

PRESET = "/v1/presets/acme%2Fpython%2Fsmall"


@pytest.fixture
async def server(engine: AsyncEngine, database_url: str) -> AsyncIterator[Server]:
    async with serving(engine, database_url) as server:
        yield server


async def test_a_preset_says_what_a_claim_can_expect(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine, instances=2)

    async def expected() -> tuple[int, int, float | None]:
        [row] = (await server.http.get("/v1/presets")).json()["presets"]
        return row["ready"], row["starting"], row["estimated_wait_seconds"]

    assert await expected() == (0, 0, None), "nothing was ever measured"
    [ready] = await make_ready(engine, preset, 1)
    await do(
        engine,
        "UPDATE workspace_builds SET completed_at = created_at + interval '40 s' WHERE workspace_id = :id",
        id=ready,
    )
    assert await expected() == (1, 0, 0.0)
    assert (await server.put("c1")).status_code == 201
    assert await expected() == (0, 0, 40.0), "a missing prebuild is created at once; an earlier one took 40 s"
    [coming] = await begin_prebuilds(engine, preset, 1)
    await do(engine, "UPDATE workspaces SET created_at = now() - interval '10 s' WHERE id = :id", id=coming)
    found = await expected()
    assert found[:2] == (0, 1)
    assert found[2] == pytest.approx(30, abs=2)


async def test_a_preset_tells_its_target_and_its_size(engine: AsyncEngine, server: Server) -> None:
    await make_preset(engine)

    async def read_size() -> tuple[object, object, object]:
        [row] = (await server.http.get("/v1/presets")).json()["presets"]
        return row["target"], row["size"], row["cost_per_hour"]

    assert await read_size() == (None, None, None)
    target = {"hit_rate": None, "wait_p95_seconds": 5.0, "min": 2, "max": 40, "max_idle": 9.5, "mode": "suggest"}
    await do(engine, f"UPDATE presets SET target = '{json.dumps(target)}', cost_per_hour = 0.5")
    assert await read_size() == (target, None, 0.5)
    await do(
        engine, "INSERT INTO preset_sizes (template_id, preset_name, size) SELECT template_id, name, 7 FROM presets"
    )
    assert await read_size() == (target, 7, 0.5)


async def test_a_what_if_is_a_report_or_its_chart(engine: AsyncEngine, server: Server) -> None:
    await make_preset(engine)
    await do(
        engine,
        "INSERT INTO preset_demand SELECT template_id, name, date_trunc('minute', now()) - n * interval '1 minute',"
        " ARRAY[1, 0, 0, 0, 0, 0], 0 FROM presets, generate_series(1, 100) AS n",
    )
    report = (await server.http.get(f"{PRESET}/size?lead_seconds=60")).json()
    assert sum(part["claims"] for part in report["parts"]) == report["claims"] >= 99
    drawn = await server.http.get(f"{PRESET}/size?lead_seconds=60&format=svg")
    assert drawn.headers["content-type"].startswith("image/svg+xml")
    assert drawn.text.startswith('<svg class="sizes"')
    paths = (await server.http.get("/openapi.json")).json()["paths"]
    described = paths["/v1/presets/{preset}/size"]["get"]["responses"]["200"]["content"]
    assert described.keys() == {"application/json", "image/svg+xml"}
    assert "</style>" in drawn.text, "it stands alone"
    assert (await server.http.get(f"{PRESET}/size?format=png")).status_code == 422


async def test_pools_are_steered_and_explained(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    assert (await server.http.post(f"{PRESET}:invalidate")).json() == {"presets": 1, "prebuilds": 2}
    await fail(engine, preset, 3)
    held = (await server.http.get("/v1/status")).json()
    assert (held["presets"][0]["held"], held["next"]) == ("hard_limited", None)
    lifted = await server.http.post(f"/v1/presets/{preset.id}:resume")
    assert lifted.json()["lifted"] == "hard_limited"
    explained = await server.http.get(f"{PRESET}/explain?limit=2")
    assert [event["kind"] for event in explained.json()["events"]][-1] == "holds_lifted"
    older = await server.http.get(f"{PRESET}/explain?limit=2&after={explained.json()['next']}")
    assert older.json()["events"][-1] not in explained.json()["events"]
    at = await server.http.get(f"{PRESET}/explain?at=2026-03-02T09:14:00Z")
    assert (at.status_code, at.json()["held"]) == (200, None)
    away = await server.http.post(f"{PRESET}:lint")
    assert (away.status_code, away.json()["code"]) == (503, "StackUnreachable")
    assert [data["hold"] for _, data in await events(engine, "holds_lifted")] == ["hard_limited"]


async def test_lists_are_limited_to_the_organizations_of_the_token(engine: AsyncEngine, database_url: str) -> None:
    await make_preset(engine)
    await make_preset(engine, organization="beta")
    gate = KnownTokens(
        claims=person("alice", "claim"),
        beta=person("token/b", "read:beta"),
        none=person("token/n"),
        all=person("a", "read"),
    )
    async with serving(engine, database_url, gate) as server:

        async def seen(token: str, path: str) -> list[str] | int:
            answer = await server.http.get(path, headers={"Authorization": f"Bearer {token}"})
            if answer.status_code != 200:
                return answer.status_code
            return [row["organization"] for row in answer.json()["presets"]]

        everything = ["acme", "beta"]
        assert [await seen(t, "/v1/presets") for t in ("claims", "beta", "none", "all")] == [
            everything,
            ["beta"],
            403,
            everything,
        ]
        assert [await seen(t, "/v1/status") for t in ("claims", "beta", "none", "all")] == [
            403,
            ["beta"],
            403,
            everything,
        ]
        first = await server.http.get("/v1/status?limit=1")
        rest = await server.http.get("/v1/status", params={"limit": 1, "after": first.json()["next"]})
        assert rest.json()["presets"][0]["organization"] == "beta"
        assert (await server.http.get("/v1/status?after=x")).status_code == 422
