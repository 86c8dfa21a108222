"""Workspaces over HTTP, by the real application on a real database; Temporal is away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.builders import make_preset
from tests.postgres.http_steps import KnownTokens, Server, person, serving
from tests.postgres.pool_steps import fail, make_ready
from tests.rows import events, one


@pytest.fixture
async def server(engine: AsyncEngine, database_url: str) -> AsyncIterator[Server]:
    async with serving(engine, database_url) as server:
        yield server


async def test_a_claimed_workspace_is_shown_set_stopped_and_released(engine: AsyncEngine, server: Server) -> None:
    await make_ready(engine, await make_preset(engine), 1)
    id = (await server.put("c1")).json()["workspace_id"]
    path = "/v1/workspaces/alice%2Fdev"
    shown = await server.http.get(path)
    assert (shown.status_code, shown.json()["id"], shown.json()["builds"][0]["stage"]) == (200, id, "create")

    changed = await server.http.patch(path, json={"ttl_seconds": 60, "autostart_schedule": "0 9 * * *"})
    assert (changed.status_code, changed.json()["ttl_seconds"], changed.json()["changed"]) == (200, 60, True)
    kept = await server.http.patch(path, json={"ttl_seconds": 90})
    assert (kept.json()["ttl_seconds"], kept.json()["autostart_schedule"]) == (90, "0 9 * * *")
    none = await server.http.patch(path, json={"ttl_seconds": 0, "autostart_schedule": ""})
    assert (none.json()["ttl_seconds"], none.json()["autostart_schedule"]) == (None, None)
    for body, field in (
        ({"ttl": 3}, "ttl"),
        ({"ttl_seconds": -1}, "ttl_seconds"),
        ({"ttl_seconds": None}, "ttl_seconds"),
        ({"autostart_schedule": "at nine"}, "autostart_schedule"),
    ):
        refused = await server.http.patch(path, json=body)
        assert (refused.status_code, list(refused.json()["errors"])) == (422, [field])

    stopped = await server.http.post(f"/v1/workspaces/{id}:stop")
    assert (stopped.status_code, stopped.json()["status"], stopped.json()["changed"]) == (200, "stopping", True)
    assert not (await server.http.post(f"{path}:stop")).json()["changed"]
    assert UUID(stopped.json()["build_id"]) in server.dispatcher.started
    released = await server.http.delete(path)
    assert (released.status_code, released.json()["workspace_id"]) == (200, id)
    assert (await server.http.delete(path)).json() == released.json()
    assert (await one(engine, "SELECT actor FROM events WHERE kind = 'released'")).actor == "operator"


async def test_a_leased_workspace_is_renewed(engine: AsyncEngine, server: Server) -> None:
    await make_ready(engine, await make_preset(engine), 2)
    claimed = (await server.put("c1", lease_seconds=600)).json()
    plain = (await server.put("c2", name="two")).json()
    assert (claimed["lease_seconds"], "lease_until" in claimed, "lease_until" in plain) == (600, True, False)
    for seconds in (59, 2_592_001, "soon"):
        refused = await server.put("c3", name="three", lease_seconds=seconds)
        assert (refused.status_code, list(refused.json()["errors"])) == (422, ["lease_seconds"])

    path = f"/v1/workspaces/{claimed['workspace_id']}"
    renewed = await server.http.post(f"{path}:renew")
    assert (renewed.status_code, renewed.json()["lease_seconds"]) == (200, 600)
    assert renewed.json()["lease_until"] > claimed["lease_until"]
    longer = await server.http.post(f"{path}:renew", json={"lease_seconds": 3600})
    assert longer.json()["lease_until"] == (await server.http.get(path)).json()["lease_until"]
    assert longer.json()["lease_until"] > renewed.json()["lease_until"]
    shorter = await server.http.patch(path, json={"lease_seconds": 60})
    assert shorter.json()["lease_until"] < renewed.json()["lease_until"]
    for body, field in (({"lease_seconds": 1}, "lease_seconds"), ({"lease": 60}, "lease")):
        for ask in (server.http.patch(path, json=body), server.http.post(f"{path}:renew", json=body)):
            refused = await ask
            assert (refused.status_code, list(refused.json()["errors"])) == (422, [field])
    none = await server.http.post("/v1/workspaces/alice%2Ftwo:renew")
    assert (none.status_code, list(none.json()["errors"])) == (422, ["workspace"])
    assert "lease_until" not in (await server.http.patch(path, json={"lease_seconds": 0})).json()
    await server.http.delete(path)
    gone = await server.http.post(f"{path}:renew")
    assert (gone.status_code, gone.json()["code"]) == (404, "WorkspaceNotFound")


async def test_a_failed_prebuild_is_kept_and_no_longer(engine: AsyncEngine, server: Server) -> None:
    [failed] = await fail(engine, await make_preset(engine), 1)
    kept = await server.http.post(f"/v1/workspaces/{failed}:keep")
    assert kept.json() == {"workspace_id": str(failed), "kept": True, "changed": True}
    assert (await server.http.post(f"/v1/workspaces/{failed}:keep?undo=true")).json()["kept"] is False


async def test_a_missing_workspace_is_answered_404(server: Server) -> None:
    for path in ("alice%2Fnone", "0b8ad3a2-91a6-4f49-9cb4-5a9fdd3f43ab"):
        missing = await server.http.post(f"/v1/workspaces/{path}:start")
        assert (missing.status_code, missing.json()["code"]) == (404, "WorkspaceNotFound")
    for reference in ("dev", "%ff", "a/b"):
        assert (await server.http.get(f"/v1/workspaces/{reference}")).status_code in (404, 422)


async def test_the_list_is_in_pages_and_has_what_the_token_may_see(engine: AsyncEngine, database_url: str) -> None:
    acme, beta = await make_preset(engine), await make_preset(engine, organization="beta")
    await make_ready(engine, acme, 3)
    await make_ready(engine, beta, 2)
    gate = KnownTokens(
        alice=person("alice", "claim"),
        portal=person("token/portal", "claim:others:acme"),
        reader=person("token/watch", "read:beta"),
        claims=person("alice", "claim:beta", "read:acme"),
        nobody=person("alice", "claim:gamma"),
        jobs=person("bob"),
    )
    async with serving(engine, database_url, gate) as server:
        assert (await server.put("c1")).status_code == 201
        assert (await server.put("c2", owner="bob")).status_code == 201
        assert (await server.put("c3", preset="beta/python/small", name="two")).status_code == 201

        async def seen(token: str, query: str = "") -> list[str] | int:
            answer = await server.http.get(f"/v1/workspaces{query}", headers={"Authorization": f"Bearer {token}"})
            if answer.status_code != 200:
                return answer.status_code
            return sorted(f"{row['organization']}/{row['owner']}" for row in answer.json()["workspaces"])

        own = ["acme/alice", "acme/bob", "acme/prebuilds"]
        others = ["beta/alice", "beta/prebuilds"]
        assert await seen("operator") == own + others
        assert await seen("alice") == ["acme/alice", "beta/alice"]
        assert await seen("portal") == ["acme/alice", "acme/bob"]
        assert await seen("reader") == others
        assert await seen("claims") == [*own, "beta/alice"]
        assert await seen("claims", "?owner=alice") == ["acme/alice", "beta/alice"]
        assert await seen("alice", "?owner=bob") == await seen("alice", "?owner=stranger") == []
        assert await seen("operator", "?owner=stranger") == 422
        assert await seen("nobody") == []
        assert await seen("jobs") == 403
        assert await seen("alice", "?prebuilt=true") == []
        assert await seen("operator", "?prebuild=true") == 422, "a mistyped filter is not ignored"
        assert await seen("operator", "?preset=acme/python/none") == 404

        rows, after = [], ""
        while True:
            page = (await server.http.get(f"/v1/workspaces?limit=2{after}")).json()
            rows += page["workspaces"]
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        assert len({row["id"] for row in rows}) == len(rows) == 5
    assert await events(engine, "released") == []
