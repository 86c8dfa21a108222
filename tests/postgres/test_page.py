"""The page of the real application on a real database, without scripts, and with Temporal away."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.http.page.acts import ACTS
from prebuilds.vocabulary import build_id_of
from tests.builders import make_preset
from tests.postgres.http_steps import Server, serving
from tests.postgres.page_steps import OWN, TOKENS, first_events, sign_in, words_of
from tests.postgres.pool_steps import begin_prebuilds, fail, make_ready
from tests.rows import do, one


@pytest.fixture
async def server(engine: AsyncEngine, database_url: str) -> AsyncIterator[Server]:
    async with serving(engine, database_url, TOKENS) as server:
        del server.http.headers["Authorization"]
        yield server


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
        hidden = str(foreign) in address  # a viewer who may not see it does not learn that it exists
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


async def test_the_page_offers_only_allowed_actions(engine: AsyncEngine, server: Server) -> None:
    preset = await make_preset(engine)
    await fail(engine, preset, 1)
    http = await sign_in(server, "reader")
    assert "/acts/" not in (await http.get("/")).text
    assert "/acts/" not in (await http.get("/presets/acme/python/small")).text
    http = await sign_in(server)
    assert "/acts/pause" in (await http.get("/")).text
    assert "/acts/invalidate?target=acme%2Fpython%2Fsmall" in (await http.get("/presets/acme/python/small")).text


async def test_actions_are_forms_with_a_reason_and_work_without_scripts(engine: AsyncEngine, server: Server) -> None:
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
    assert own.status_code == 303, "an older browser states the origin of its form only in this header"


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
    assert b"operator".hex() not in kept, "a reader of the table learns no token"
    async with serving(engine, database_url, TOKENS) as other:
        assert (await other.http.get(shared)).status_code == 303, "every server of the deployment takes it"
    await do(engine, "UPDATE sign_in_links SET expires_at = now() - interval '1 s'")
    assert (await server.http.get(old)).status_code == 401, "not for long"


async def test_a_link_from_a_chat_finds_its_way(server: Server) -> None:
    """The browser omits the cookie from a request begun by another site; the page then repeats the request itself."""
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


def test_every_action_describes_its_effect() -> None:
    assert all(act.says.endswith(".") and act.done.endswith(".") for act in ACTS.values())
