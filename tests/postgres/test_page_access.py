"""Every address of the page against every scope: the rights to see and to act."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.http.page import forms, routes
from prebuilds.http.page.acts import ACTS
from prebuilds.vocabulary.actors import Actor
from prebuilds.vocabulary.scopes import Right, Scope
from tests.builders import make_preset
from tests.postgres.http_steps import KnownTokens, serving
from tests.postgres.page_steps import OWN, first_events, sign_in
from tests.postgres.pool_steps import make_ready
from tests.postgres.test_http_access import routes_of
from tests.rows import one

READERS = {Right.READ, Right.OPERATE, Right.ADMIN}
OPERATORS = {Right.OPERATE, Right.ADMIN}
PEOPLE = {Right.CLAIM_OTHERS}
SCOPES = [Scope(right, where) for right in Right for where in ("acme", "beta", None)]
ANYBODY = {"GET /assets/{name}", "GET /sign-in", "POST /sign-in", "POST /sign-in/links", "POST /sign-out"}
"""What is the same for everybody, or asks for a token itself."""
LIVE = "/live"


def allowed(address: str, scope: Scope, workspace: str) -> bool:
    """Return whether alice's token with this scope may see or change bob's objects in acme."""
    here = scope.organization in ("acme", None)
    seen = address.removeprefix(LIVE) or "/"
    if seen == "/":
        return scope.right in READERS
    if seen.startswith("/presets/"):
        return here and scope.right in READERS
    if seen.startswith(("/workspaces/", "/claims/", "/find")):
        return here and scope.right in READERS | PEOPLE
    act = ACTS[seen.removeprefix("/acts/").partition("?")[0]]
    if act.of == "deployment":
        return scope.organization is None and scope.right in OPERATORS
    return here and scope.right in (OPERATORS | PEOPLE if act.of == "workspace" else OPERATORS)


def addresses(workspace: str) -> Iterator[str]:
    shown = ("/presets/acme/python/small", f"/workspaces/{workspace}", "/claims/c1")
    yield from ("/", *shown, "/presets/acme/python/small/size", f"/find?what={workspace}")
    yield from (LIVE, *(f"{LIVE}{address}" for address in shown))
    target = {"deployment": "", "preset": "?target=acme/python/small", "workspace": f"?target={workspace}"}
    yield from (f"/acts/{name}{target[act.of]}" for name, act in ACTS.items())


def test_every_address_is_tried() -> None:
    found = set(routes_of([*routes.router.routes, *forms.router.routes]))
    kinds = {"GET /", "GET /find", "GET /acts/{name}", "POST /acts/{name}"}
    for live in ("", LIVE):
        kinds |= {f"GET {live}/presets/{{organization}}/{{template}}/{{preset}}"}
        kinds |= {f"GET {live}/workspaces/{{workspace}}", f"GET {live}/claims/{{claim_id}}"}
    kinds |= {"GET /presets/{organization}/{template}/{preset}/size"}
    assert found == kinds | {f"GET {LIVE}"} | ANYBODY


async def test_every_address_against_every_scope(engine: AsyncEngine, database_url: str) -> None:
    await make_preset(engine, organization="beta")
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    alice = Actor("alice", user="alice")
    tokens = KnownTokens(**{str(n): replace(alice, scopes=frozenset({s})) for n, s in enumerate(SCOPES)})
    async with serving(engine, database_url, tokens) as server:
        body = {"preset": "acme/python/small", "owner": "bob", "name": "dev"}
        workspace = (await server.http.put("/v1/claims/c1", json=body)).json()["workspace_id"]
        del server.http.headers["Authorization"]
        for n, scope in enumerate(SCOPES):
            http = await sign_in(server, str(n))
            for address in addresses(workspace):
                may = allowed(address, scope, workspace)
                if address.startswith(LIVE) and may:
                    assert "event: head" in await first_events(http, address, 2) or address == LIVE
                    continue
                answer = await http.get(address)
                # A viewer who may not see a claim or a workspace does not learn that it exists.
                hidden = workspace in address and not allowed("/workspaces/", scope, workspace)
                refused = 404 if hidden or "/claims/" in address else 403
                assert answer.status_code in ((200, 303) if may else (refused,)), (address, str(scope), answer.text)
                if not may and address.startswith("/acts/"):
                    path, _, target = address.partition("?target=")
                    form = {"target": target, "cause": "x"}
                    assert (await http.post(path, data=form, headers=OWN)).status_code == refused, (path, str(scope))
            there, gone = [await http.get("/find", params={"what": claim_id}) for claim_id in ("c1", "c0")]
            assert (there.status_code != gone.status_code) == allowed("/claims/c1", scope, workspace), str(scope)
    changed = "SELECT paused, loop, (SELECT count(*) FROM presets WHERE last_invalidated_at IS NOT NULL) FROM settings"
    assert tuple(await one(engine, changed)) == (False, "never_started", 0)


@pytest.mark.parametrize("sent", ["-", "prebuilds_http"])
async def test_without_a_cookie_nothing_is_done(engine: AsyncEngine, database_url: str, sent: str) -> None:
    await make_preset(engine)
    async with serving(engine, database_url) as server:
        server.http.cookies.set(sent, "wrong")
        del server.http.headers["Authorization"]
        for name in ACTS:
            answer = await server.http.post(f"/acts/{name}", data={"cause": "x"}, headers=OWN)
            assert answer.status_code == 401
