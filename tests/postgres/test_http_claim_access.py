"""Access to claims over HTTP: the rights to claim, to see and to end a claim, and the answers to a used id."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import ClaimIdReused
from prebuilds.http.answering import answer_waiting
from prebuilds.http.waiting import Patience
from prebuilds.operations.direct_claims import ClaimFound
from prebuilds.operations.rate_limits import RateLimits
from prebuilds.payloads import ClaimRun
from prebuilds.planning.rate_limit import CLAIMS, Bucket, Taken
from tests.builders import make_preset
from tests.postgres.http_steps import BODY, KnownTokens, Server, person, serving
from tests.postgres.pool_steps import Desk, make_ready
from tests.rows import do, one


@pytest.fixture
async def server(engine: AsyncEngine, database_url: str) -> AsyncIterator[Server]:
    async with serving(engine, database_url) as server:
        yield server


async def test_a_batch_is_what_one_request_has_won(engine: AsyncEngine, database_url: str) -> None:
    preset = await make_preset(engine)
    gate = KnownTokens(alice=person("alice", "claim"))
    async with serving(engine, database_url, gate) as server:
        assert (await server.put("room")).status_code == 429
        await make_ready(engine, preset, 5)
        for id_, owner in (("room%2F2", "bob"), ("room%2F3", "alice"), ("hall%2F0", "alice"), ("hall%2F1", "bob")):
            assert (await server.put(id_, owner=owner, name=f"n{id_[-1]}")).status_code == 201
        claimed = await server.put_many("room", "a")
        assert claimed.status_code == 201
        for method in ("GET", "DELETE"):
            alices = {"Authorization": "Bearer alice"}
            seen = await server.http.request(method, "/v1/claims/room", headers=alices)
            assert seen.json()["claim"] == claimed.json(), "neither bob's, nor hidden by what the id had missed before"
            other = await server.http.request(method, "/v1/claims/hall", headers=alices)
            assert [claim["owner"] for claim in other.json()["claim"]["claims"]] == ["alice"]


async def test_a_claim_leaves_the_queue_also_when_its_workflow_is_gone(
    engine: AsyncEngine, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_preset(engine, instances=0)
    desk = Desk(engine, server.service.direct._store)
    await desk.wait("c1", name="dev")
    await do(engine, "UPDATE claim_queue SET workflow_id = 'c1'")  # as a service names the workflows that it starts
    other = await server.put("c1", on_empty="wait", owner="bob")
    assert (other.status_code, other.json()["code"]) == (422, "ClaimIdReused"), "waiting claims count, too"
    workflow_ids = []

    async def is_gone(claim_id: str, workflow_id: str) -> bool:
        workflow_ids.append(workflow_id)
        if len(workflow_ids) == 1:  # it was asked for again meanwhile
            await do(engine, "UPDATE claim_queue SET workflow_id = 'claim-workspace/c1'")
        return False

    monkeypatch.setattr(server.service.waiting._client, "leave_queue", is_gone)
    goes_on = await server.http.delete("/v1/claims/c1")
    assert (goes_on.status_code, goes_on.headers["retry-after"]) == (503, "1")
    left = await server.http.delete("/v1/claims/c1")
    assert (left.status_code, left.json()["error"]["code"]) == (200, "RequestCanceled")
    assert workflow_ids == ["c1", "claim-workspace/c1"]
    assert (await one(engine, "SELECT count(*) FROM claim_queue")).count == 0
    assert (await one(engine, "SELECT actor FROM events WHERE kind = 'claim_left'")).actor == "operator", "not alice"


async def test_a_request_never_gets_another_requests_win_under_its_id(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    claimed = (await server.put("c1", on_empty="wait")).json()
    other = await server.put("c1", on_empty="wait", owner="bob")
    assert (other.status_code, other.json()["code"]) == (422, "ClaimIdReused")
    assert claimed["workspace_id"] not in other.text

    for request in (b"another", None):  # somebody else has won while this one was about to wait
        found = await server.service.direct.find("c1")
        assert found is not None
        started = ClaimFound("c1", "its-run", request_hash=request or found.request_hash)
        try:
            answer = await answer_waiting(server.service, replace(started, position=1), Patience(60.0))
        except ClaimIdReused:
            assert request is not None
        else:
            assert (request, answer.status_code) == (None, 200), "decided by another run than the one that it started"


async def test_another_runs_refusal_does_not_answer_a_continuing_claim(engine: AsyncEngine, server: Server) -> None:
    await make_preset(engine)
    assert (await server.put("c1", owner="nobody")).status_code == 422
    answer = await answer_waiting(server.service, ClaimFound("c1", "its-run"), Patience(0.5))
    assert (answer.status_code, json.loads(bytes(answer.body))["state"]) == (202, "deciding")


async def test_a_token_claims_for_those_whom_its_scopes_name(engine: AsyncEngine, database_url: str) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 4)
    gate = KnownTokens(
        alice=person("alice", "claim"),
        acme=person("token/portal", "claim:others:acme"),
        other=person("token/portal", "claim:others:other"),
        reader=person("token/watch", "read"),
    )
    async with serving(engine, database_url, gate) as server:

        async def status(token: str | None, claim_id: str, method: str = "PUT", **changes: str) -> int:
            headers = {"Authorization": f"Bearer {token}"} if token else {"Authorization": ""}
            body = None if method == "GET" else BODY | changes
            return (await server.http.request(method, f"/v1/claims/{claim_id}", json=body, headers=headers)).status_code

        for token, claim_id, changes, expected in (
            (None, "c0", {}, 401),
            ("guess", "c0", {}, 401),
            ("alice", "c0", {"owner": "bob"}, 403),
            ("alice", "c0", {"initiator": "bob"}, 403),
            ("other", "c0", {}, 403),
            ("other", "c0", {"preset": str(preset.id)}, 403),
            ("reader", "c0", {}, 403),
        ):
            assert await status(token, claim_id, **changes) == expected, (token, changes)
        assert (await one(engine, "SELECT count(*) FROM claims")).count == 0, "a refused caller changes nothing"
        assert await status("alice", "a") == 201
        assert await status("acme", "b", owner="bob", preset=str(preset.id)) == 201
        seen = {token: [await status(token, c, "GET") for c in ("a", "b")] for token in ("alice", "acme", "reader")}
        assert seen == {"alice": [200, 404], "acme": [200, 200], "reader": [200, 200]}
        refused = await server.http.get("/v1/claims/b", headers={"Authorization": "Bearer alice"})
        unknown = await server.http.get("/v1/claims/b0", headers={"Authorization": "Bearer alice"})
        assert refused.text == unknown.text.replace("b0", "b"), "as if there were none"
        assert await status("reader", "b", "DELETE") == 403, "a caller who may see it learns the missing scope"
        assert refused.headers["ratelimit-policy"].startswith('"requests"')
        assert (await server.http.get("/v1/nowhere", headers={"Authorization": ""})).status_code == 404


async def test_a_rate_limited_request_has_one_retry_after(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    spent = Taken(CLAIMS, Bucket(0.0, 0.0), allowed=False)
    monkeypatch.setattr(RateLimits, "take", lambda *_: spent)
    for refused in (await server.put("c1"), await server.http.get("/v1/claims/c1")):
        assert (refused.status_code, refused.headers.get_list("retry-after")) == (429, ["1"])
        assert refused.headers["ratelimit"].startswith('"claims";r=0')


async def test_a_claimant_sees_its_unsuccessful_claims_too(engine: AsyncEngine, database_url: str) -> None:
    await make_preset(engine, instances=0)
    gate = KnownTokens(
        alice=person("alice", "claim:acme"), bob=person("bob", "claim"), other=person("token/o", "claim:others:other")
    )
    async with serving(engine, database_url, gate) as server:
        desk = Desk(engine, server.service.direct._store)
        assert (await server.put("missed", owner="Alice")).status_code == 429
        assert (await server.put("refused", preset="acme/python/none")).status_code == 404
        await desk.wait("late", name="dev")
        await desk.leave("late", "timed_out")
        await server.put("deciding", on_empty="wait")  # Temporal is away
        await server.put("bobs", owner="bob")
        await desk.leave("bobs", "canceled", run=ClaimRun(id="next", began_at=datetime.now(UTC)), name="dev")
        for claim_id in ("missed", "refused", "late", "deciding", "bobs"):
            for token, status in (("alice", 200), ("bob", 404), ("other", 404)):
                headers = {"Authorization": f"Bearer {token}"}
                seen = await server.http.get(f"/v1/claims/{claim_id}", headers=headers)
                assert seen.status_code == status, (claim_id, token)


async def test_events_of_a_claim_say_which_token_asked(engine: AsyncEngine, database_url: str) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    ids = {name: uuid4() for name in ("bob", "portal")}
    gate = KnownTokens(**{n: replace(person(n, "claim:others"), token_id=id_) for n, id_ in ids.items()})
    gate.actors["portal"] = replace(gate.actors["portal"], name="token/portal", user=None)
    async with serving(engine, database_url, gate) as server:
        claimed = await server.put("c1", {"Authorization": "Bearer bob"})
        assert claimed.json()["initiator"] == "bob", "a caller who claims for another person is the initiator"
        await server.put("c2", {"Authorization": "Bearer bob"}, owner="bob")
        headers = {"Authorization": "Bearer portal"}
        await server.put("c2", headers, owner="bob", name="d2")
        await server.put("c3", headers, owner="bob", name="d2", on_empty="wait")  # Temporal is away
        desk = Desk(engine, server.service.direct._store)
        workflow = ClaimRun(id="workflow", began_at=datetime.now(UTC))
        await desk.ask("c3", run=workflow, owner="bob", name="d2", on_empty="wait")
    recorded = await one(
        engine, "SELECT array_agg(kind || ' ' || actor || ' ' || (data ->> 'token_id') ORDER BY id) AS of FROM events"
    )
    assert recorded.of[-4:] == [
        f"claim_prebuilt bob {ids['bob']}",
        f"claim_missed bob {ids['bob']}",
        f"claim_missed bob {ids['portal']}",
        f"claim_queued bob {ids['portal']}",
    ]


async def test_only_member_administrators_add_a_member_with_a_claim(engine: AsyncEngine, database_url: str) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 3)
    gate = KnownTokens(
        zoe=person("zoe", "claim"),
        portal=person("token/portal", "claim:others:acme"),
        other=person("token/other", "admin:other"),
        admin=person("token/admin", "admin:acme"),
    )
    async with serving(engine, database_url, gate) as server:
        for target in ("acme/python/small", str(preset.id)):
            for token in ("zoe", "portal", "other"):
                headers = {"Authorization": f"Bearer {token}"}
                refused = await server.put("c1", headers, preset=target, owner="zoe", create_owner=True)
                assert refused.status_code == 403, token
        for query in ("SELECT count(*) FROM users WHERE name = 'zoe'", "SELECT count(*) FROM claims"):
            assert (await one(engine, query)).count == 0
        admin = {"Authorization": "Bearer admin"}
        assert (await server.put("c1", admin, owner="zoe", create_owner=True)).status_code == 201
        refused = await server.put("c2", {"Authorization": "Bearer portal"}, owner="zoe", name="d2", create_owner=True)
        assert refused.json()["details"]["scope"] == "admin:acme"


async def test_every_endpoint_but_health_and_the_documentation_asks_for_a_token(server: Server) -> None:
    server.http.headers.pop("Authorization")
    document = (await server.http.get("/openapi.json")).json()
    open_to_all = set()
    for path, operations in document["paths"].items():
        for method in operations:
            answer = await server.http.request(method, path.replace("{claim_id}", "c1"), json=BODY)
            if answer.status_code != 401:
                open_to_all.add(path)
    assert open_to_all == {"/healthz", "/readyz"}
    assert (await server.http.post("/v1/claims:nothing")).status_code == 401
