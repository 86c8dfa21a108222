"""The page of the real application on a real database, without scripts, and with Temporal away."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.background.sizing import Sizer
from prebuilds.http.page.acts import ACTS
from prebuilds.store import drills
from prebuilds.store.drills import DrillEnd
from prebuilds.vocabulary import build_id_of
from tests.builders import apply_file, find_preset, make_preset
from tests.postgres.http_steps import KnownTokens, Server, person, serving
from tests.postgres.pool_steps import RULES, NotedDispatcher, begin_prebuilds, fail, make_ready
from tests.postgres.rollout_steps import roll
from tests.rows import do, one

OPERATOR = "operator"
OWN = {"Sec-Fetch-Site": "same-origin"}
"""What a browser sends with a form of the page itself."""
TOKENS = KnownTokens(
    acme=person("ann", "operate:acme"), reader=person("rob", "read"), claimer=person("alice", "claim:acme")
)


@pytest.fixture
async def server(engine: AsyncEngine, database_url: str) -> AsyncIterator[Server]:
    async with serving(engine, database_url, TOKENS) as server:
        del server.http.headers["Authorization"]
        yield server


async def sign_in(server: Server, token: str = OPERATOR) -> httpx.AsyncClient:
    """The server's client, signed in as a browser is."""
    server.http.cookies.clear()
    answer = await server.http.post("/sign-in", data={"token": token, "next": "/"}, headers=OWN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/"), answer.text
    return server.http


def words_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


async def test_signed_out_the_page_shows_nothing_but_its_form(engine: AsyncEngine, server: Server) -> None:
    await make_preset(engine)
    for address in ("/", "/presets/acme/python/small", "/live", "/acts/pause"):
        answer = await server.http.get(address)
        assert (answer.status_code, "acme" in answer.text.replace("/presets/acme/python/small", "")) == (401, False)
    refused = await server.http.post("/sign-in", data={"token": "wrong"}, headers=OWN)
    assert (refused.status_code, "set-cookie" in refused.headers) == (401, False)
    assert "is not good" in refused.text


async def test_the_cookie_is_for_this_server_alone(server: Server) -> None:
    answer = await server.http.post("/sign-in", data={"token": "operator", "next": "//evil.example"}, headers=OWN)
    cookie = answer.headers["set-cookie"]
    assert answer.headers["location"] == "/", "nowhere else"
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    over_tls = await server.http.post(
        "/sign-in", data={"token": "operator"}, headers=OWN | {"X-Forwarded-Proto": "https"}
    )
    assert "Secure" in over_tls.headers["set-cookie"]
    http = await sign_in(server)
    assert (await http.get("/")).status_code == 200
    assert (await http.put("/v1/claims/c", json={})).status_code == 401, "the cookie is no token of the API"
    await http.post("/sign-out", headers=OWN)
    assert (await http.get("/")).status_code == 401


async def test_nothing_in_a_page_comes_from_elsewhere_or_acts(engine: AsyncEngine, server: Server) -> None:
    await make_preset(engine, schedule=[{"cron": "* 8-18 * * 1-5", "instances": 4}], timezone="Europe/Berlin")
    http = await sign_in(server)
    for address in ("/", "/presets/acme/python/small", "/acts/pause", "/sign-in"):
        answer = await http.get(address)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?! src=\"/assets/)|<style|\sstyle=|\son[a-z]+=|javascript:", answer.text)
        assert not re.search(r"(?:src|href|action)=\"(?!/|#)", answer.text), "every address is this server's"
        for asset in re.findall(r"(?:src|href)=\"(/assets/[^\"]+)\"", answer.text):
            found = await http.get(asset)
            assert (found.status_code, "immutable" in found.headers["cache-control"]) == (200, True)
    assert (await http.get("/assets/..%2f__init__.py")).status_code == 404


async def test_texts_of_others_are_shown_and_do_nothing(engine: AsyncEngine, server: Server) -> None:
    hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\r\nevent: gone"
    preset = await make_preset(engine)
    [failed] = await fail(engine, preset, 1)
    build_id = build_id_of(failed, 1)
    await do(engine, "UPDATE workspace_builds SET error = :text WHERE id = :id", text=hostile, id=build_id)
    await do(
        engine,
        "INSERT INTO build_logs (build_id, attempt, number, at, line) VALUES (:id, 1, 1, now(), :text)",
        id=build_id,
        text=hostile,
    )
    await do(engine, "UPDATE settings SET paused = true, paused_by = :text, paused_reason = :text", text=hostile)
    await do(
        engine,
        "INSERT INTO events (kind, actor, preset_id, workspace_id, data)"
        " VALUES ('paused', CAST(:text AS text), :preset, :workspace,"
        "         jsonb_build_object('reason', CAST(:text AS text)))",
        text=hostile,
        preset=preset.id,
        workspace=failed,
    )
    await do(engine, "UPDATE workspaces SET address = 'javascript:alert(3)', host = :text", text=hostile)
    http = await sign_in(server)
    addresses = ("/", "/presets/acme/python/small", f"/workspaces/{failed}", f"/find?what={hostile[:30]}")
    for address in addresses:
        text = (await http.get(address, follow_redirects=True)).text
        assert "<script>" not in text
        assert "<img src=x" not in text
        assert 'href="javascript' not in text
    shown = (await http.get("/presets/acme/python/small")).text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    streamed = await first_events(http, f"/live/workspaces/{failed}", 4)
    assert "event: gone" not in streamed.splitlines(), "no text in it is an event of its own"


async def first_events(http: httpx.AsyncClient, address: str, number: int) -> str:
    """The first events of a live page, by the application itself: httpx's transport would wait for the stream's end."""
    application: Any = http._transport.app  # type: ignore[attr-defined]
    received, enough = [], asyncio.Event()
    left = asyncio.Event()

    body = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in body:
            return message
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        received.append(message)
        if b"".join(m.get("body", b"") for m in received).count(b"event: ") >= number:
            enough.set()

    cookies = "; ".join(f"{name}={value}" for name, value in http.cookies.items())
    scope = {
        **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http"},
        **{"path": address, "raw_path": address.encode(), "query_string": b"", "root_path": ""},
        "headers": [(b"host", b"prebuilds"), (b"cookie", cookies.encode())],
        **{"server": ("prebuilds", 80), "client": ("127.0.0.1", 1)},
    }
    streaming = asyncio.create_task(application(scope, receive, send))
    async with asyncio.timeout(20):
        await enough.wait()
    left.set()
    streaming.cancel()
    await asyncio.wait({streaming})
    return b"".join(m.get("body", b"") for m in received).decode()


async def test_an_organizations_token_sees_its_own_alone(engine: AsyncEngine, server: Server) -> None:
    ours = await make_preset(engine)
    theirs = await make_preset(engine, "secret", organization="globex", template="lab", members=("bob",))
    await begin_prebuilds(engine, ours, 1)
    [foreign] = await make_ready(engine, theirs, 1)
    await begin_prebuilds(engine, theirs, 1)
    http = await sign_in(server, "acme")
    page = await http.get("/")
    assert (page.status_code, "acme/python" in page.text, "globex" in page.text) == (200, True, False)
    assert "Pause" not in words_of(page.text), "the loop is everybody's"
    assert "globex" not in await first_events(http, "/live", 4)
    for address in (
        "/presets/globex/lab/secret",
        "/live/presets/globex/lab/secret",
        f"/workspaces/{foreign}",
        f"/acts/release?target={foreign}",
        "/acts/invalidate?target=globex/lab/secret",
        "/acts/pause",
    ):
        hidden = str(foreign) in address  # who may not see it does not learn that it exists
        assert (await http.get(address)).status_code == (404 if hidden else 403), address
    for act, target, refused in (
        ("invalidate", "globex/lab/secret", 403),
        ("release", str(foreign), 404),
        ("stop", "", 403),
    ):
        form = {"target": target, "cause": "mine"}
        assert (await http.post(f"/acts/{act}", data=form, headers=OWN)).status_code == refused
    assert (await one(engine, "SELECT count(*) FROM presets WHERE last_invalidated_at IS NOT NULL")).count == 0
    http = await sign_in(server, "claimer")
    assert (await http.get("/")).status_code == 403
    assert "read" in (await http.get("/")).text, "the scope that would be enough"


async def test_what_a_token_may_not_do_is_not_offered(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    await fail(engine, preset, 1)
    http = await sign_in(server, "reader")
    assert "/acts/" not in (await http.get("/")).text
    assert "/acts/" not in (await http.get("/presets/acme/python/small")).text
    http = await sign_in(server)
    assert "/acts/pause" in (await http.get("/")).text
    assert "/acts/invalidate?target=acme%2Fpython%2Fsmall" in (await http.get("/presets/acme/python/small")).text


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
    shown, other = [(await http.get(f"/workspaces/{won['workspace_id']}")).text for won in (leased, plain)]
    assert f"/acts/renew?target={leased['workspace_id']}" in shown
    assert "<dt>Lease</dt><dd>until " in shown
    assert "/acts/renew" not in other
    assert "<dt>Lease</dt>" not in other
    renewed = await http.post("/acts/renew", data={"target": leased["workspace_id"]}, headers=OWN)
    assert renewed.headers["location"] == f"/workspaces/{leased['workspace_id']}?done=renew"
    until = (await one(engine, "SELECT lease_until FROM workspaces WHERE lease IS NOT NULL")).lease_until
    assert until > datetime.fromisoformat(leased["lease_until"])


async def test_acts_are_forms_with_a_cause_and_work_without_scripts(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    [ready] = await make_ready(engine, preset, 1)
    [failed] = await fail(engine, preset, 1)
    http = await sign_in(server)
    form = (await http.get("/acts/pause")).text
    assert 'action="/acts/pause" method="post"' in form
    assert "required" in form
    empty = await http.post("/acts/pause", data={"target": "", "cause": " "}, headers=OWN)
    assert (empty.status_code, "is required" in empty.text) == (422, True)
    paused = await http.post("/acts/pause", data={"target": "", "cause": "a <b>flood</b>"}, headers=OWN)
    assert (paused.status_code, paused.headers["location"]) == (303, "/?done=pause")
    page = words_of((await http.get("/?done=pause")).text)
    assert "The pools are paused." in page
    assert "Paused by operator: a &lt;b&gt;flood&lt;/b&gt;" in page
    assert "Resume…" in page
    assert (await http.post("/acts/resume", data={"target": ""}, headers=OWN)).status_code == 303
    target = {"target": "acme/python/small"}
    assert (await http.post("/acts/invalidate", data=target, headers=OWN)).headers["location"] == (
        "/presets/acme/python/small?done=invalidate"
    )
    assert (await one(engine, "SELECT count(*) FROM presets WHERE last_invalidated_at IS NOT NULL")).count == 1
    released = await http.post("/acts/release", data={"target": str(ready)}, headers=OWN)
    assert released.headers["location"] == f"/workspaces/{ready}?done=release"
    refused = await http.post("/acts/retry", data={"target": str(failed)}, headers=OWN)
    assert (refused.status_code, 'role="alert"' in refused.text) == (422, True), "a refusal is shown with the form"
    assert (await http.get(f"/workspaces/{ready}?done=release")).status_code == 200
    assert (await http.get("/acts/none")).status_code == 404


async def test_another_sites_form_does_nothing(engine: AsyncEngine, server: Server) -> None:
    await make_preset(engine)
    http = await sign_in(server)
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of the same host
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {},
    ):
        for act in ("stop", "pause"):
            answer = await http.post(f"/acts/{act}", data={"target": "", "cause": "x"}, headers=headers)
            assert answer.status_code == 403
    assert (await one(engine, "SELECT paused FROM settings")).paused is False
    own = await http.post("/acts/pause", data={"cause": "x"}, headers={"Origin": "http://prebuilds"})
    assert own.status_code == 303, "an older browser says where its form is from in this way alone"


async def test_a_link_signs_in_once(engine: AsyncEngine, server: Server, database_url: str) -> None:
    assert (await server.http.post("/sign-in/links")).status_code == 401
    bearer = {"Authorization": "Bearer operator"}
    made = (await server.http.post("/sign-in/links", headers=bearer)).json()
    assert "operator" not in made["path"]
    elsewhere = await server.http.get(made["path"], headers={"Sec-Fetch-Site": "cross-site"})
    assert elsewhere.status_code == 403, "another site cannot sign anybody in"
    used = await server.http.get(made["path"], headers={"Sec-Fetch-Site": "none"})
    assert (used.status_code, used.headers["location"]) == (303, "/")
    assert (await server.http.get("/")).status_code == 200
    server.http.cookies.clear()
    again = await server.http.get(made["path"])
    assert (again.status_code, "was used" in again.text) == (401, True)

    shared = (await server.http.post("/sign-in/links", headers=bearer)).json()["path"]
    old = (await server.http.post("/sign-in/links", headers=bearer)).json()["path"]
    kept = (await one(engine, "SELECT string_agg(t::text, ' ') AS rows FROM sign_in_links t")).rows
    assert shared.partition("=")[2] not in kept
    assert b"operator".hex() not in kept, "whoever reads the table learns no token"
    async with serving(engine, database_url, TOKENS) as other:
        assert (await other.http.get(shared)).status_code == 303, "every server of the deployment takes it"
    await do(engine, "UPDATE sign_in_links SET expires_at = now() - interval '1 s'")
    assert (await server.http.get(old)).status_code == 401, "not for long"


async def test_a_link_from_a_chat_finds_its_way(server: Server) -> None:
    """The browser leaves the cookie out of what another site has begun; the page then asks once more by itself."""
    first = await server.http.get("/presets/acme/python/small", headers={"Sec-Fetch-Site": "cross-site"})
    assert 'http-equiv="refresh" content="0"' in first.text
    second = await server.http.get("/presets/acme/python/small", headers=OWN)
    assert 'http-equiv="refresh" content="0"' not in second.text, "and not for ever"


async def test_fifty_viewers_cost_one_reading(engine: AsyncEngine, server: Server) -> None:
    await make_preset(engine)
    statements: list[str] = []
    event.listen(
        engine.sync_engine, "before_cursor_execute", lambda c, cursor, statement, *_: statements.append(statement)
    )
    http = await sign_in(server)
    await first_events(http, "/live", 4)
    readings = sum("workspace_builds WHERE status = 'pending'" in statement for statement in statements)
    assert readings == 1
    statements.clear()
    await asyncio.gather(*[first_events(http, "/live", 4) for _ in range(50)], *[http.get("/") for _ in range(20)])
    assert sum("workspace_builds WHERE status = 'pending'" in statement for statement in statements) <= 1
    statements.clear()
    await asyncio.sleep(0)
    assert statements == [], "nothing is read when nobody looks"


async def test_a_claim_and_a_workspace_have_pages(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    bearer = {"Authorization": "Bearer operator"}
    body = {"preset": "acme/python/small", "owner": "alice", "name": "dev"}
    won = (await server.http.put("/v1/claims/order%2F1", json=body, headers=bearer)).json()
    http = await sign_in(server)
    claim = await http.get("/claims/order%2F1")
    assert (claim.status_code, "prebuilt" in words_of(claim.text)) == (200, True)
    assert f"/workspaces/{won['workspace_id']}" in claim.text
    workspace = words_of((await http.get(f"/workspaces/{won['workspace_id']}")).text)
    assert "alice/dev" in workspace
    assert "claimed by operator as alice/dev" in workspace or "claimed by alice as alice/dev" in workspace
    assert "event: head" in await first_events(http, "/live/claims/order%2F1", 2)
    found = await http.get("/find?what=alice/dev")
    assert found.headers["location"] == f"/workspaces/{won['workspace_id']}"
    assert (await http.get("/find?what=order/1")).status_code in (303, 404)
    missing = await http.get("/claims/none")
    assert (missing.status_code, "no claim none is recorded" in missing.text) == (404, True)
    own = await sign_in(server, "claimer")
    assert (await own.get(f"/workspaces/{won['workspace_id']}")).status_code == 200, "everybody sees their own"


def test_every_act_says_what_it_does() -> None:
    assert all(act.says.endswith(".") and act.done.endswith(".") for act in ACTS.values())


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

    async def told(template: str) -> str:
        found = words_of((await http.get(f"/presets/acme/{template}/small")).text)
        return found[found.index("Schedule") :]

    assert "It has no target. prebuilds size acme/java/small says" in await told("java")
    words = await told("go")
    assert "shown only not known yet for a hit rate of 99 %, between 2 and 40, with at most 20 ready" in words
    assert "1 prebuilds are desired at all times" in words
    words = await told("python")
    assert "It has no schedule: the size for its target is desired at all times." in words
    assert "Size the pool follows it 2 for a hit rate of 99 %" in words
    assert "Rule: peak of 1440 min x 1; lead time" in words
    assert "On past claims it met the target: 99.4 % found one ready, 3.4 were ready on average." in words
    asked = await http.get("/presets/acme/python/small/size")
    assert "0 claims, lead time" in words_of(asked.text)
    assert "peak of 1440 min x 1 chosen" in words_of(asked.text)
    await do(
        engine,
        "INSERT INTO preset_demand SELECT template_id, name, date_trunc('minute', now()) - n * interval '1 minute',"
        " ARRAY[1, 0, 0, 0, 0, 0], 0 FROM presets, generate_series(1, 100) AS n",
    )
    asked = await http.get("/presets/acme/python/small/size")
    assert '<svg class="sizes"' in asked.text


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
