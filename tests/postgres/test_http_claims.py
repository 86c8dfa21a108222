"""Claims over HTTP, by the real application on a real database: no workflow, and no Temporal anywhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import ClaimTimedOut
from prebuilds.http.answering import answer_waiting
from prebuilds.http.waiting import WAITERS_MAX, Patience
from prebuilds.operations import direct_claims, waiting_claims
from prebuilds.operations.direct_claims import ClaimFound
from prebuilds.payloads import ClaimRequest
from prebuilds.store.engine import create_engine
from tests.builders import apply_file, find_preset, make_preset
from tests.postgres.http_steps import BODY, Server, serving
from tests.postgres.pool_steps import begin_prebuilds, fail, make_ready
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
    claimed = await server.put("c1")
    assert (claimed.status_code, claimed.json()["workspace_id"]) == (201, str(ready))
    state = (await server.http.get("/v1/claims/c1")).json()
    assert (state["state"], state["claim"]) == ("claimed", claimed.json())


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
    request_hash = server.service.direct.hash_request(ClaimRequest.model_validate(BODY))
    begun = {"hash": request_hash, "at": datetime.now(UTC) + timedelta(seconds=30)}
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


async def test_a_miss_that_waiting_cannot_help_is_a_conflict(engine: AsyncEngine, server: Server) -> None:
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


async def test_a_batch_is_won_whole_or_not_at_all(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    missed = await server.put_many("room", "a", "b", "c")
    assert missed.status_code == 429
    assert (await one(engine, "SELECT count(*) FROM workspaces WHERE claimed_at IS NOT NULL")).count == 0
    claimed = await server.put_many("room", "a", "b")
    assert claimed.status_code == 201
    assert [claim["claim_id"] for claim in claimed.json()["claims"]] == ["room/0", "room/1"]
    again = await server.put_many("room", "a", "b")
    assert (again.status_code, again.json()) == (200, claimed.json())
    assert (await server.put_many("room", "a", "z")).json()["code"] == "ClaimIdReused"
    assert (await server.http.get("/v1/claims/room")).json()["state"] == "claimed"
    member = await server.http.get("/v1/claims/room%2F1")
    assert member.json()["claim"]["name"] == "b", "a slash in an id is written %2F"


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
    for kind in ("text/plain", ""):  # as pages of other sites may send it without asking
        refused = await server.http.put("/v1/claims/c1", content=json.dumps(BODY), headers={"Content-Type": kind})
        assert (refused.status_code, refused.json()["errors"].keys()) == (422, {"body"}), kind
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


async def test_waiting_takes_what_is_ready_without_temporal(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    claimed = await server.put("c1", on_empty="wait")
    again = await server.put("c1", on_empty="wait")
    assert (claimed.status_code, again.status_code, again.text) == (201, 200, claimed.text)
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


async def test_explain_shows_an_http_claim_as_any_claim(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    claimed = (await server.put("c1")).json()
    assert [(preset_id, data["name"]) for preset_id, data in await events(engine, "claim_prebuilt")] == [
        (preset.id, "dev")
    ]
    stream = await server.http.get("/v1/claims/c1/events")
    assert stream.headers["content-type"].startswith("text/event-stream")
    lines = stream.text.splitlines()
    [ended] = [line.removeprefix("id: ") for line in lines if line.startswith("id: ")]
    assert ended.startswith("claimed.")
    data = next(line.removeprefix("data: ") for line in lines if line.startswith("data: "))
    assert json.loads(data)["claim"]["workspace_id"] == claimed["workspace_id"]
    heard = await server.http.get("/v1/claims/c1/events", headers={"Last-Event-ID": ended})
    assert (heard.status_code, heard.text) == (204, ""), "a browser does not come again"
    assert (await server.http.delete("/v1/claims/c1")).json()["state"] == "claimed", "it has won, and stays so"


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


async def test_a_limit_is_a_conflict_or_says_when_to_come_back(engine: AsyncEngine, server: Server) -> None:
    small = {"name": "small", "instances": 0}
    await apply_file(engine, small, limits={"workspaces_per_member": 1, "claims_per_minute": 9})
    await make_ready(engine, await find_preset(engine), 3)
    assert (await server.put("c1", name="one")).status_code == 201
    conflict = await server.put("c2", name="two")
    assert (conflict.status_code, conflict.json()["code"]) == (409, "LimitExceeded")
    assert "retry-after" not in conflict.headers
    assert conflict.json()["details"]["limit"] == "workspaces_per_member"
    await apply_file(engine, small, limits={"claims_per_minute": 1})
    busy = await server.put("c3", name="three")
    assert (busy.status_code, busy.json()["details"]["limit"]) == (429, "claims_per_minute")
    assert 1 <= int(busy.headers["retry-after"]) <= 60
    assert (await server.put("c1", name="one")).status_code == 200, "a won claim is answered again"
