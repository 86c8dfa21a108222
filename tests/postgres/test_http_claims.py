"""Claims over HTTP, by the real application on a real database: no workflow, and no Temporal anywhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import ClaimIdReused, ClaimTimedOut
from prebuilds.http.answering import answer_waiting
from prebuilds.http.waiting import WAITERS_MAX, Patience
from prebuilds.operations import direct_claims, waiting_claims
from prebuilds.operations.direct_claims import ClaimFound
from prebuilds.operations.rate_limits import RateLimits
from prebuilds.payloads import ClaimRequest, ClaimRun
from prebuilds.planning.rate_limit import CLAIMS, Bucket, Taken
from prebuilds.store.engine import create_engine
from tests.builders import make_preset
from tests.postgres.http_steps import BODY, KnownTokens, Server, person, serving
from tests.postgres.pool_steps import Desk, begin_prebuilds, fail, make_ready
from tests.rows import do, events, one


@pytest.fixture
async def server(engine: AsyncEngine, database_url: str) -> AsyncIterator[Server]:
    async with serving(engine, database_url) as server:
        yield server


async def test_a_claim_sent_twenty_times_at_once_gets_one_workspace(
    engine: AsyncEngine, server: Server, database_url: str
) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 3)
    async with serving(engine, database_url) as other:
        answers = await asyncio.gather(*[(server, other)[n % 2].put("c1") for n in range(20)])
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].headers["location"] == "/v1/claims/c1"
    assert answers[0].json()["claim_id"] == "c1"
    assert (await one(engine, "SELECT count(*) FROM workspaces WHERE claimed_at IS NOT NULL")).count == 1
    assert len(server.dispatcher.started + other.dispatcher.started) == 1, "its build starts in the background, once"

    async with serving(engine, database_url) as restarted:
        again = await restarted.put("c1")
    assert (again.status_code, again.text) == (200, answers[0].text)
    reused = await server.put("c1", name="other")
    assert (reused.status_code, reused.json()["code"]) == (422, "ClaimIdReused")
    assert reused.headers["content-type"] == "application/problem+json"


async def test_a_miss_sent_twenty_times_at_once_is_the_same_miss(
    engine: AsyncEngine, server: Server, database_url: str
) -> None:
    await make_preset(engine, instances=0)
    async with serving(engine, database_url) as other:
        answers = await asyncio.gather(*[(server, other)[n % 2].put("c1") for n in range(20)])
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {
        (429, "NoClaimablePrebuiltWorkspaces")
    }, [answer.text for answer in answers]


async def test_after_a_miss_the_same_id_may_win(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine, instances=0)
    missed = await server.put("c1")
    assert missed.status_code == 429
    assert missed.json()["details"] == {"miss_reason": "empty"}
    assert missed.json()["claim_id"] == "c1"
    assert missed.headers["retry-after"] in {"10", "11"}, "nothing is known of it; a burst is spread"
    state = (await server.http.get("/v1/claims/c1")).json()
    assert (state["state"], state["error"]["code"]) == ("failed", "NoClaimablePrebuiltWorkspaces")

    [ready] = await make_ready(engine, preset, 1)
    won = await server.put("c1")
    assert (won.status_code, won.json()["workspace_id"]) == (201, str(ready))
    state = (await server.http.get("/v1/claims/c1")).json()
    assert (state["state"], state["claim"]) == ("claimed", won.json())


async def test_a_miss_says_when_to_come_back(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine, instances=2)
    for workspace_id in await make_ready(engine, preset, 2):
        await do(
            engine,
            "UPDATE workspace_builds SET completed_at = created_at + interval '40 s' WHERE workspace_id = :id",
            id=workspace_id,
        )
    assert {(await server.put(f"c{n}", name=f"n{n}")).status_code for n in range(2)} == {201}
    [coming] = await begin_prebuilds(engine, preset, 1)
    await do(engine, "UPDATE workspaces SET created_at = now() - interval '10 s' WHERE id = :id", id=coming)
    missed = await server.put("c3", name="n3")
    assert (missed.status_code, missed.json()["details"]["miss_reason"]) == (429, "starting")
    assert 28 <= int(missed.headers["retry-after"]) <= 33
    assert missed.json()["retry_after_seconds"] == int(missed.headers["retry-after"])


async def test_a_later_request_that_died_is_no_other_request(
    engine: AsyncEngine, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_claims, "LATER_RUN_LOOKS", 2)
    await make_preset(engine)
    asked = server.service.direct.hash_request(ClaimRequest.model_validate(BODY))
    begun = {"hash": asked, "at": datetime.now(UTC) + timedelta(seconds=30)}
    row = "INSERT INTO claims (id, request_hash, run, other_runs_after) VALUES ('c1', :hash, 'r', :at)"
    await do(engine, row, **begun)
    unknown = await server.put("c1")
    assert (unknown.status_code, unknown.json()["code"]) == (503, "StoreUnavailable")
    assert (await server.put("c1", name="other")).json()["code"] == "ClaimIdReused"


async def test_a_stopped_loop_makes_nothing_soon(engine: AsyncEngine, server: Server) -> None:
    await make_preset(engine)
    await do(engine, "UPDATE settings SET loop = 'stopped'")
    missed = await server.put("c1")
    assert missed.status_code == 429
    assert 60 <= int(missed.headers["retry-after"]) <= 66
    started = ClaimFound("c1", "its-run", failed=ClaimTimedOut("late"))
    with pytest.raises(ClaimTimedOut):
        await answer_waiting(server.service, started, Patience(0.0))


async def test_where_waiting_cannot_help_it_says_so(engine: AsyncEngine, server: Server) -> None:
    await make_preset(engine, template="none", instances=None)
    none = await server.put("c1", preset="acme/none/small")
    assert (none.status_code, none.json()["details"]) == (409, {"miss_reason": "no_pool", "until": None})
    assert "retry-after" not in none.headers

    preset = await make_preset(engine)
    await fail(engine, preset, 1)
    held = await server.put("c2")
    assert (held.status_code, held.json()["details"]["miss_reason"]) == (409, "held")
    assert datetime.fromisoformat(held.json()["details"]["until"]) > datetime.now(UTC)
    await do(engine, "UPDATE settings SET paused = true, paused_by = 'ann', paused_reason = 'x', paused_at = now()")
    paused = await server.put("c3")
    assert (paused.status_code, paused.json()["details"]) == (409, {"miss_reason": "paused", "until": None})


async def test_many_are_won_together_or_not_at_all(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    missed = await server.put_many("room", "a", "b", "c")
    assert missed.status_code == 429
    assert (await one(engine, "SELECT count(*) FROM workspaces WHERE claimed_at IS NOT NULL")).count == 0
    won = await server.put_many("room", "a", "b")
    assert won.status_code == 201
    assert [claim["claim_id"] for claim in won.json()["claims"]] == ["room/0", "room/1"]
    again = await server.put_many("room", "a", "b")
    assert (again.status_code, again.json()) == (200, won.json())
    assert (await server.put_many("room", "a", "z")).json()["code"] == "ClaimIdReused"
    assert (await server.http.get("/v1/claims/room")).json()["state"] == "claimed"
    member = await server.http.get("/v1/claims/room%2F1")
    assert member.json()["claim"]["name"] == "b", "a slash in an id is written %2F"


async def test_a_batch_is_what_one_request_has_won(engine: AsyncEngine, database_url: str) -> None:
    preset = await make_preset(engine)
    gate = KnownTokens(alice=person("alice", "claim"))
    async with serving(engine, database_url, gate) as server:
        assert (await server.put("room")).status_code == 429
        await make_ready(engine, preset, 5)
        for id_, owner in (("room%2F2", "bob"), ("room%2F3", "alice"), ("hall%2F0", "alice"), ("hall%2F1", "bob")):
            assert (await server.put(id_, owner=owner, name=f"n{id_[-1]}")).status_code == 201
        won = await server.put_many("room", "a")
        assert won.status_code == 201
        for method in ("GET", "DELETE"):
            alices = {"Authorization": "Bearer alice"}
            seen = await server.http.request(method, "/v1/claims/room", headers=alices)
            assert seen.json()["claim"] == won.json(), "neither bob's, nor hidden by what the id had missed before"
            other = await server.http.request(method, "/v1/claims/hall", headers=alices)
            assert [claim["owner"] for claim in other.json()["claim"]["claims"]] == ["alice"]


async def test_without_an_id_one_is_made(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    body = {"preset": "acme/python/small", "owner": "alice"}
    made = await server.http.post("/v1/claims", json=body | {"name": "one"})
    assert made.status_code == 201
    assert made.headers["location"] == f"/v1/claims/{made.json()['claim_id']}"
    keyed = [
        await server.http.post("/v1/claims", json=body | {"name": "two"}, headers={"Idempotency-Key": key.encode()})
        for key in ("k 1/ä", '"k 1/ä"')
    ]
    assert [answer.status_code for answer in keyed] == [201, 200], "with quotes, as the draft has it, and without"
    assert keyed[1].headers["location"] == "/v1/claims/k%201%2F%C3%A4"
    assert (await server.http.get(keyed[1].headers["location"])).json()["claim_id"] == "k 1/ä"


async def test_bad_input_names_its_fields_and_writes_nothing(engine: AsyncEngine, server: Server) -> None:
    await make_preset(engine)
    for changes, fields in (
        ({"name": "No!"}, {"name"}),
        ({"ttl": 3}, {"ttl"}),
        ({"owner": "prebuilds"}, {"owner"}),
        ({"autostart_schedule": "at nine"}, {"autostart_schedule"}),
        ({"claim_parameters": {"a": 1}}, {"claim_parameters.a"}),
    ):
        refused = await server.put("c1", **changes)
        assert refused.status_code == 422, refused.text
        assert set(refused.json()["errors"]) == fields
    for content in (b"{", b"", b"[1]", b"\xff"):
        refused = await server.http.put("/v1/claims/c1", content=content, headers={"Content-Type": "application/json"})
        assert (refused.status_code, refused.json()["errors"].keys()) == (422, {"body"}), content
    assert (await server.http.put(f"/v1/claims/{'x' * 201}", json={})).status_code == 422
    assert (await server.http.put("/v1/claims/%ff", json={})).json()["errors"].keys() >= {"claim_id"}
    long = await server.http.put("/v1/claims/c1", content=b" " * 1_000_001)
    assert (long.status_code, long.headers["content-type"]) == (413, "application/problem+json")
    assert (await one(engine, "SELECT count(*) FROM claims")).count == 0


async def test_refusals_have_their_status(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    assert (await server.put("c1")).status_code == 201
    for changes, status, code in (
        ({}, 409, "NameTaken"),
        ({"owner": "nobody"}, 422, "OwnerNotFound"),
        ({"preset": "acme/python/large"}, 404, "PresetNotFound"),
        ({"preset": None, "template": "acme/ruby"}, 404, "TemplateNotFound"),
    ):
        refused = await server.put("c2", **changes)
        assert (refused.status_code, refused.json()["code"]) == (status, code)
        assert refused.json()["errors"], "the field is named"
    assert (await server.http.get("/v1/claims/c9")).json()["code"] == "ClaimNotFound"
    assert (await server.http.get("/v1/nowhere")).json()["code"] == "NotFound"
    wrong = await server.http.patch("/v1/claims/c1")
    assert (wrong.status_code, wrong.headers["content-type"]) == (405, "application/problem+json")


async def test_while_the_database_is_away_the_answer_is_503(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    pool = server.service.direct._store.pool
    await pool.close()
    for answer in (await server.put("c1"), await server.http.get("/readyz")):
        assert answer.status_code == 503, answer.text
    away = await server.put("c1")
    assert (away.json()["code"], away.headers["retry-after"]) == ("StoreUnavailable", "1")
    assert (await server.http.get("/healthz")).status_code == 200


async def test_a_claim_without_an_id_learns_its_id_when_the_database_goes_away(
    engine: AsyncEngine, server: Server, database_url: str
) -> None:
    await make_preset(engine)
    away = create_engine("postgresql://127.0.0.1:1/nowhere")
    async with serving(away, database_url) as other:
        unknown = await other.http.post("/v1/claims", json=BODY)
    assert (unknown.status_code, unknown.json()["code"]) == (503, "StoreUnavailable")
    assert unknown.json()["claim_id"]
    server.service.direct._engine = away  # from here on: after the miss was decided
    missed = await server.http.post("/v1/claims", json=BODY)
    assert missed.status_code == 429, "a miss stays one"
    assert missed.headers["retry-after"] in {"10", "11"}, "when is not known"
    recorded = await one(engine, "SELECT count(*) FROM claims WHERE id = :id", id=missed.json()["claim_id"])
    assert recorded.count == 1
    await away.dispose()


async def test_a_claim_that_waits_gets_its_id_also_when_too_many_answers_are_held(server: Server) -> None:
    server.service.held_of[uuid4()] = WAITERS_MAX
    answer = await answer_waiting(server.service, ClaimFound("c1", "its-run", owner="alice"), Patience(60.0))
    assert (answer.status_code, answer.headers["location"]) == (202, "/v1/claims/c1")
    assert json.loads(bytes(answer.body))["claim_id"] == "c1"


async def test_a_claim_leaves_the_queue_also_when_its_workflow_is_gone(
    engine: AsyncEngine, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_preset(engine, instances=0)
    desk = Desk(engine, server.service.direct._store)
    await desk.wait("c1", name="dev")
    await do(engine, "UPDATE claim_queue SET workflow_id = 'c1'")  # as a service names the workflows that it starts
    other = await server.put("c1", on_empty="wait", owner="bob")
    assert (other.status_code, other.json()["code"]) == (422, "ClaimIdReused"), "what waits counts, too"
    asked = []

    async def is_gone(claim_id: str, workflow_id: str) -> bool:
        asked.append(workflow_id)
        if len(asked) == 1:  # it was asked for again meanwhile
            await do(engine, "UPDATE claim_queue SET workflow_id = 'claim-workspace/c1'")
        return False

    monkeypatch.setattr(server.service.waiting._client, "leave_queue", is_gone)
    goes_on = await server.http.delete("/v1/claims/c1")
    assert (goes_on.status_code, goes_on.headers["retry-after"]) == (503, "1")
    left = await server.http.delete("/v1/claims/c1")
    assert (left.status_code, left.json()["error"]["code"]) == (200, "RequestCanceled")
    assert asked == ["c1", "claim-workspace/c1"]
    assert (await one(engine, "SELECT count(*) FROM claim_queue")).count == 0
    assert (await one(engine, "SELECT actor FROM events WHERE kind = 'claim_left'")).actor == "operator", "not alice"


async def test_nobody_gets_what_another_request_has_won_under_the_id(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    won = (await server.put("c1", on_empty="wait")).json()
    other = await server.put("c1", on_empty="wait", owner="bob")
    assert (other.status_code, other.json()["code"]) == (422, "ClaimIdReused")
    assert won["workspace_id"] not in other.text

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


async def test_what_another_run_was_refused_is_no_answer_to_a_claim_that_goes_on(
    engine: AsyncEngine, server: Server
) -> None:
    await make_preset(engine)
    assert (await server.put("c1", owner="nobody")).status_code == 422
    answer = await answer_waiting(server.service, ClaimFound("c1", "its-run"), Patience(0.5))
    assert (answer.status_code, json.loads(bytes(answer.body))["state"]) == (202, "deciding")


async def test_waiting_takes_what_is_ready_without_temporal(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    won = await server.put("c1", on_empty="wait")
    again = await server.put("c1", on_empty="wait")
    assert (won.status_code, again.status_code, again.text) == (201, 200, won.text)
    away = await server.put("c2", on_empty="wait", name="two")
    assert (away.status_code, away.json()["code"], away.headers["retry-after"]) == (503, "StackUnreachable", "1")
    assert await events(engine, "claim_missed") == [], "nobody was told no"
    await make_ready(engine, preset, 1)
    assert (await server.put("c2", on_empty="wait", name="two")).status_code == 201


async def test_watching_goes_on_after_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_claims, "FAULT_PAUSE_S", 0.0)
    answers = [ValueError("a row that nobody can read"), {"c1": ClaimFound("c1", "r", position=1)}]

    async def find_all(_: object) -> dict[str, ClaimFound]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    found = await waiting_claims.ClaimWatch(find_all).next_change("c1", None, 20.0)
    assert found is not None


async def test_explain_shows_it_as_any_claim(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    won = (await server.put("c1")).json()
    assert [(preset_id, data["name"]) for preset_id, data in await events(engine, "claim_prebuilt")] == [
        (preset.id, "dev")
    ]
    stream = await server.http.get("/v1/claims/c1/events")
    assert stream.headers["content-type"].startswith("text/event-stream")
    lines = stream.text.splitlines()
    [ended] = [line.removeprefix("id: ") for line in lines if line.startswith("id: ")]
    assert ended.startswith("claimed.")
    data = next(line.removeprefix("data: ") for line in lines if line.startswith("data: "))
    assert json.loads(data)["claim"]["workspace_id"] == won["workspace_id"]
    heard = await server.http.get("/v1/claims/c1/events", headers={"Last-Event-ID": ended})
    assert (heard.status_code, heard.text) == (204, ""), "a browser does not come again"
    assert (await server.http.delete("/v1/claims/c1")).json()["state"] == "claimed", "it has won, and stays so"


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
        assert (await one(engine, "SELECT count(*) FROM claims")).count == 0, "who is refused changes nothing"
        assert await status("alice", "a") == 201
        assert await status("acme", "b", owner="bob", preset=str(preset.id)) == 201
        seen = {token: [await status(token, c, "GET") for c in ("a", "b")] for token in ("alice", "acme", "reader")}
        assert seen == {"alice": [200, 404], "acme": [200, 200], "reader": [200, 200]}
        refused = await server.http.get("/v1/claims/b", headers={"Authorization": "Bearer alice"})
        unknown = await server.http.get("/v1/claims/b0", headers={"Authorization": "Bearer alice"})
        assert refused.text == unknown.text.replace("b0", "b"), "as if there were none"
        assert await status("reader", "b", "DELETE") == 403, "who may see it learns what is missing"
        assert refused.headers["ratelimit-policy"].startswith('"requests"')
        assert (await server.http.get("/v1/nowhere", headers={"Authorization": ""})).status_code == 404


async def test_who_asks_too_often_is_told_once_when_to_come_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = Taken(CLAIMS, Bucket(0.0, 0.0), allowed=False)
    monkeypatch.setattr(RateLimits, "take", lambda *_: spent)
    for refused in (await server.put("c1"), await server.http.get("/v1/claims/c1")):
        assert (refused.status_code, refused.headers.get_list("retry-after")) == (429, ["1"])
        assert refused.headers["ratelimit"].startswith('"claims";r=0')


async def test_who_claims_sees_also_what_got_nothing(engine: AsyncEngine, database_url: str) -> None:
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
        won = await server.put("c1", {"Authorization": "Bearer bob"})
        assert won.json()["initiator"] == "bob", "who asks for somebody else is the initiator"
        await server.put("c2", {"Authorization": "Bearer bob"}, owner="bob")
        headers = {"Authorization": "Bearer portal"}
        await server.put("c2", headers, owner="bob", name="d2")
        await server.put("c3", headers, owner="bob", name="d2", on_empty="wait")  # Temporal is away
        desk = Desk(engine, server.service.direct._store)
        workflow = ClaimRun(id="workflow", began_at=datetime.now(UTC))
        await desk.ask("c3", run=workflow, owner="bob", name="d2", on_empty="wait")
    told = await one(
        engine, "SELECT array_agg(kind || ' ' || actor || ' ' || (data ->> 'token_id') ORDER BY id) AS of FROM events"
    )
    assert told.of[-4:] == [
        f"claim_prebuilt bob {ids['bob']}",
        f"claim_missed bob {ids['bob']}",
        f"claim_missed bob {ids['portal']}",
        f"claim_queued bob {ids['portal']}",
    ]


async def test_only_who_may_change_members_adds_one_with_a_claim(engine: AsyncEngine, database_url: str) -> None:
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
    assert (await server.http.post("/v1/nothing")).status_code == 401


async def test_the_document_says_every_answer(server: Server) -> None:
    document = (await server.http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    put = document["paths"]["/v1/claims/{claim_id}"]["put"]
    assert set(put["responses"]) == {
        "200",
        "201",
        "202",
        "401",
        "403",
        "404",
        "408",
        "409",
        "413",
        "422",
        "429",
        "500",
        "503",
    }
    assert put["responses"]["409"]["content"] == {
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
    }
    assert set(put["requestBody"]["content"]["application/json"]["examples"]) == {"one", "wait", "many"}
    assert "HTTPValidationError" not in document["components"]["schemas"]
