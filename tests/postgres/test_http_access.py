"""Every endpoint against every scope: a refused request changes nothing and is recorded as an event."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.operations.access import Gate
from prebuilds.operations.tokens import TokenOperations
from prebuilds.planning.policy import Action
from prebuilds.vocabulary import parse_duration
from prebuilds.vocabulary.actors import OPERATOR, Actor
from prebuilds.vocabulary.scopes import Right, Scope, parse_scope
from tests.builders import make_preset
from tests.postgres.http_steps import KnownTokens, Server, serving
from tests.postgres.pool_steps import make_ready
from tests.rows import do, one, rows_of
from tests.unit.test_policy import EVERYWHERE, IN_AN_ORGANIZATION, LETTERS

WORKSPACE, PRESET, TEMPLATE = (
    "/v1/workspaces/bob%2Fdev",
    "/v1/presets/acme%2Fpython%2Fsmall",
    "/v1/templates/acme%2Fpython",
)
DRILL = "f3c2a9d4-5b8e-4f1a-a1d0-3f6c8e2b7d90"
CLAIM = {"preset": "acme/python/small", "owner": "bob", "name": "dev"}
OPEN = {"/healthz", "/readyz", "/openapi.json", "/docs"}
"""What is the same for everybody, and the files of the documentation's page."""


@dataclass(frozen=True)
class Endpoint:
    """The action that an endpoint checks, and a request of it about bob's workspace in the organization acme."""

    path: str
    action: Action | None
    """None: any good token will do."""
    body: Any = None
    lists: bool = False
    """Whether it lists what is within reach, so that a token of another organization gets another list."""


ENDPOINTS: dict[str, Endpoint] = {
    "GET /v1/claims/{claim_id}": Endpoint("/v1/claims/c1", Action.SEE_CLAIM),
    "GET /v1/claims/{claim_id}/events": Endpoint("/v1/claims/c1/events", Action.SEE_CLAIM),
    "GET /v1/doctor": Endpoint("/v1/doctor", Action.SEE_DOCTOR),
    "GET /v1/events": Endpoint("/v1/events", Action.SEE_EVENTS, lists=True),
    "GET /v1/jobs": Endpoint("/v1/jobs", Action.SEE_JOBS, lists=True),
    "GET /v1/logs/{reference}": Endpoint("/v1/logs/bob%2Fdev", Action.SEE_LOG),
    "GET /v1/presets": Endpoint("/v1/presets", Action.SEE_AVAILABILITY, lists=True),
    "GET /v1/presets/{preset}/explain": Endpoint(f"{PRESET}/explain", Action.SEE_PRESETS),
    "GET /v1/presets/{preset}/size": Endpoint(f"{PRESET}/size?lead_seconds=60", Action.SEE_PRESETS),
    "GET /v1/snapshot": Endpoint("/v1/snapshot", Action.SEE_SNAPSHOT),
    "GET /v1/status": Endpoint("/v1/status", Action.SEE_STATUS, lists=True),
    "GET /v1/limits": Endpoint("/v1/limits", Action.SEE_LIMITS, lists=True),
    "GET /v1/drills": Endpoint("/v1/drills", Action.SEE_TEMPLATES, lists=True),
    "GET /v1/drills/{drill}": Endpoint(f"/v1/drills/{DRILL}", Action.SEE_TEMPLATES),
    "POST /v1/drills": Endpoint("/v1/drills", Action.RUN_DRILL, {"target": "acme/python"}),
    "GET /v1/templates": Endpoint("/v1/templates", Action.SEE_TEMPLATES, lists=True),
    "GET /v1/workspaces": Endpoint("/v1/workspaces", Action.SEE_WORKSPACE, lists=True),
    "GET /v1/workspaces/{workspace}": Endpoint(WORKSPACE, Action.SEE_WORKSPACE),
    "GET /v1/builds": Endpoint("/v1/builds?of=bob%2Fdev", Action.SEE_LOG),
    "GET /v1/builds/{build_id}": Endpoint("/v1/builds/BUILD", Action.SEE_WORKSPACE),
    "GET /v1/claims/{claim_id}/explain": Endpoint("/v1/claims/c1/explain", Action.SEE_CLAIM),
    "GET /v1/loop": Endpoint("/v1/loop", Action.SEE_STATUS, lists=True),
    "GET /v1/organizations/{organization}/members": Endpoint("/v1/organizations/acme/members", Action.SEE_MEMBERS),
    "GET /v1/tokens": Endpoint("/v1/tokens", Action.SEE_TOKENS),
    "GET /v1/users": Endpoint("/v1/users", Action.SEE_USERS),
    "GET /v1/waiting": Endpoint("/v1/waiting?preset=acme/python/small", Action.SEE_STATUS),
    "POST /v1/claims:nothing": Endpoint("/v1/claims:nothing", None, CLAIM),
    "PUT /v1/claims/{claim_id}": Endpoint("/v1/claims/c1", Action.CLAIM, CLAIM),
    "POST /v1/claims": Endpoint("/v1/claims", Action.CLAIM, CLAIM),
    "DELETE /v1/claims/{claim_id}": Endpoint("/v1/claims/c1", Action.LEAVE_QUEUE),
    "POST /v1/jobs:cancel": Endpoint("/v1/jobs:cancel", Action.CANCEL_JOBS, {"initiator": "bob"}, lists=True),
    "POST /v1/loop:pause": Endpoint("/v1/loop:pause", Action.PAUSE, {"reason": "x"}),
    "POST /v1/loop:resume": Endpoint("/v1/loop:resume", Action.RESUME),
    "POST /v1/loop:start": Endpoint("/v1/loop:start", Action.START_LOOP),
    "POST /v1/loop:stop": Endpoint("/v1/loop:stop", Action.STOP_LOOP, {"cause": "x"}),
    "POST /v1/presets/{preset}:invalidate": Endpoint(f"{PRESET}:invalidate", Action.INVALIDATE_PRESET),
    "POST /v1/presets/{preset}:lint": Endpoint(f"{PRESET}:lint", Action.LINT_PRESET),
    "POST /v1/presets/{preset}:resume": Endpoint(f"{PRESET}:resume", Action.LIFT_HOLDS),
    "POST /v1/reconcile": Endpoint("/v1/reconcile", Action.RECONCILE, {"preset": "acme/python/small"}),
    "PATCH /v1/workspaces/{workspace}": Endpoint(WORKSPACE, Action.SET_WORKSPACE, {"ttl_seconds": 60}),
    "POST /v1/workspaces/{workspace}:abandon": Endpoint(f"{WORKSPACE}:abandon", Action.ABANDON_WORKSPACE),
    "POST /v1/workspaces/{workspace}:keep": Endpoint(f"{WORKSPACE}:keep", Action.KEEP_WORKSPACE),
    "POST /v1/workspaces/{workspace}:renew": Endpoint(f"{WORKSPACE}:renew", Action.RENEW_LEASE),
    "POST /v1/workspaces/{workspace}:retry": Endpoint(f"{WORKSPACE}:retry", Action.RETRY_WORKSPACE),
    "POST /v1/workspaces/{workspace}:start": Endpoint(f"{WORKSPACE}:start", Action.START_WORKSPACE),
    "POST /v1/workspaces/{workspace}:stop": Endpoint(f"{WORKSPACE}:stop", Action.STOP_WORKSPACE),
    "POST /v1/workspaces/{workspace}:transfer": Endpoint(
        f"{WORKSPACE}:transfer", Action.TRANSFER_WORKSPACE, {"to": "bob"}
    ),
    "POST /v1/workspaces:prune": Endpoint(
        "/v1/workspaces:prune", Action.PRUNE_WORKSPACES, {"failed": True, "preset": "acme/python/small"}
    ),
    "POST /codec/decode": Endpoint("/codec/decode", Action.DECODE_PAYLOADS, {"payloads": []}),
    "POST /v1/inventory": Endpoint("/v1/inventory", Action.SEE_INVENTORY),
    "POST /v1/organizations/{organization}/members:add": Endpoint(
        "/v1/organizations/acme/members:add", Action.CHANGE_MEMBERS, {"users": ["bob"]}
    ),
    "POST /v1/organizations/{organization}/members:remove": Endpoint(
        "/v1/organizations/acme/members:remove", Action.CHANGE_MEMBERS, {"users": ["zoe"]}
    ),
    "POST /v1/users:disable": Endpoint("/v1/users:disable", Action.SWITCH_USERS, {"users": ["zoe"]}),
    "POST /v1/users:enable": Endpoint("/v1/users:enable", Action.SWITCH_USERS, {"users": ["zoe"]}),
    "POST /v1/tokens": Endpoint("/v1/tokens", Action.CHANGE_TOKENS, {"name": "made", "scopes": ["read"]}),
    "POST /v1/tokens:confirm": Endpoint("/v1/tokens:confirm", Action.CHANGE_TOKENS, {"names": ["none"]}),
    "DELETE /v1/tokens/{name}": Endpoint("/v1/tokens/none", Action.CHANGE_TOKENS),
    "POST /v1/templates/{template}:invalidate": Endpoint(f"{TEMPLATE}:invalidate", Action.INVALIDATE_PRESET),
    "PUT /v1/templates": Endpoint("/v1/templates", Action.APPLY, {"organizations": [{"name": "acme"}]}),
    "GET /v1/rollouts": Endpoint("/v1/rollouts", Action.SEE_TEMPLATES, lists=True),
    "GET /v1/templates/{template}/rollout": Endpoint(f"{TEMPLATE}/rollout", Action.SEE_TEMPLATES),
    "POST /v1/templates/{template}/rollout:pause": Endpoint(f"{TEMPLATE}/rollout:pause", Action.CONTROL_ROLLOUT),
    "POST /v1/templates/{template}/rollout:resume": Endpoint(f"{TEMPLATE}/rollout:resume", Action.CONTROL_ROLLOUT),
    "POST /v1/templates/{template}/rollout:undo": Endpoint(f"{TEMPLATE}/rollout:undo", Action.CONTROL_ROLLOUT),
    "POST /v1/templates/{template}:deprecate": Endpoint(f"{TEMPLATE}:deprecate", Action.DEPRECATE_TEMPLATE),
    "DELETE /v1/templates/{template}": Endpoint(TEMPLATE, Action.DELETE_TEMPLATE),
    "DELETE /v1/workspaces/{workspace}": Endpoint(WORKSPACE, Action.RELEASE_WORKSPACE),
}
"""In an order in which each finds what it is about."""


SEEN = {
    **dict.fromkeys((WORKSPACE, "/v1/logs/", "/v1/builds"), Action.SEE_WORKSPACE),
    **dict.fromkeys(
        (PRESET, TEMPLATE, "/v1/waiting", "/v1/reconcile", "/v1/workspaces:prune"), Action.SEE_AVAILABILITY
    ),
    "/v1/drills/": Action.SEE_TEMPLATES,
}
"""The begin of an endpoint's path -> who may do this sees the thing that the endpoint looks up."""


def routes_of(routes: Iterable[Any]) -> Iterator[str]:
    """Yield `METHOD /path` of every route of an application, also of those that no documentation has."""
    for route in routes:
        if hasattr(route, "original_router"):
            yield from routes_of(route.original_router.routes)
        else:
            yield from (f"{method} {route.path}" for method in route.methods - {"HEAD"})


def letter_of(right: Right) -> str:
    return next(letter for letter, one in LETTERS.items() if one is right)


def allowed(action: Action | None, scope: Scope) -> bool:
    """Return whether alice's token with this scope may do the action to bob's workspace in acme."""
    if action is None:
        return True
    if action in EVERYWHERE:
        return scope.organization is None and letter_of(scope.right) in EVERYWHERE[action]
    return scope.organization in ("acme", None) and letter_of(scope.right) in IN_AN_ORGANIZATION[action][1]


def refusal_of(endpoint: Endpoint, scope: Scope | None) -> int:
    """Return the status of a refusal; *scope* None stands for an invalid token.

    A caller who may not see an object does not learn that it exists. A caller who may do nothing of the kind in any
    organization gets 403 before anything is looked up.
    """
    if scope is None:
        return 401
    if endpoint.action in {Action.SEE_CLAIM, Action.LEAVE_QUEUE}:
        return 403 if allowed(Action.SEE_CLAIM, scope) else 404
    sees = next((sees for start, sees in SEEN.items() if endpoint.path.startswith(start)), None)
    anywhere = letter_of(scope.right) in IN_AN_ORGANIZATION.get(endpoint.action, ("",))[0]
    return 404 if sees is not None and anywhere and not allowed(sees, scope) else 403


def answered(endpoint: Endpoint, scope: Scope) -> bool:
    """Return whether the scope allows the request, or it lists objects of alice's or of another organization."""
    if not endpoint.lists or endpoint.action is None:
        return allowed(endpoint.action, scope)
    return letter_of(scope.right) in IN_AN_ORGANIZATION[endpoint.action][0]


def test_the_table_has_every_endpoint() -> None:
    """A new route needs an entry, so that its author decides who may use it."""
    server: Any = type("Nothing", (), {})()
    from prebuilds.http.app import create_app
    from prebuilds.http.page import forms, routes

    pages = set(routes_of([*forms.router.routes, *routes.router.routes]))  # `test_page_access.py` has these
    found = {route for route in routes_of(create_app(server, server).routes) if route.split()[1] not in OPEN}
    assert {route for route in found - pages if not route.startswith("GET /docs/")} == ENDPOINTS.keys()


@pytest.fixture
async def gate(engine: AsyncEngine) -> Gate:
    return Gate(engine)


async def send(server: Server, token: str | None, name: str) -> httpx.Response:
    endpoint = ENDPOINTS[name]
    headers = {"Authorization": "" if token is None else f"Bearer {token}"}
    path = endpoint.path.replace("BUILD", server.build_id)
    return await server.http.request(name.partition(" ")[0], path, json=endpoint.body, headers=headers)


async def test_every_endpoint_against_every_scope(engine: AsyncEngine, database_url: str, gate: Gate) -> None:
    await make_preset(engine, organization="beta")
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    await do(engine, f"INSERT INTO drills (id, template_id, due_at) VALUES ('{DRILL}', '{preset.template_id}', now())")
    tokens = TokenOperations(engine)
    scopes = [Scope(right, where) for right in Right for where in ("acme", "beta", None)]
    made = {s: (await tokens.create(OPERATOR, f"t{n}", [str(s)], user="alice")).token for n, s in enumerate(scopes)}
    bad = {
        n: (await tokens.create(OPERATOR, n, ["admin"], expires=parse_duration("1h"))).token for n in ("old", "gone")
    }
    await do(engine, "UPDATE tokens SET expires_at = now() WHERE name = 'old'")
    await tokens.revoke(OPERATOR, "gone")
    operator = (await tokens.create(OPERATOR, "operator", ["admin"])).token
    async with serving(engine, database_url, gate) as server:
        server.service.draining.set()  # a stream ends after its first word
        claimed = await send(server, operator, "PUT /v1/claims/{claim_id}")
        assert claimed.status_code == 201, claimed.text
        server.build_id = claimed.json()["build_id"]
        await gate.drain()
        before = await rows_of(engine)

        async def refuse(token: str | None, scope: Scope | None) -> None:
            for name, endpoint in ENDPOINTS.items():
                if scope is None or not answered(endpoint, scope):
                    answer = await send(server, token, name)
                    assert answer.status_code == refusal_of(endpoint, scope), (name, scope, answer.text)
                    # The test below compares the others with answers about what is not there.
                    assert "dev" not in answer.text or answer.status_code == 404, "no caller learns which objects exist"

        async with asyncio.TaskGroup() as together:
            for scope, token in made.items():
                together.create_task(refuse(token, scope))
            for wrong in (*bad.values(), None, "guess"):
                together.create_task(refuse(wrong, None))
        await gate.drain()
        after = await rows_of(engine)
        changed = {table for table in before if before[table] != after[table]}
        assert changed <= {"events", "tokens"}, "a refused caller changes nothing; a token's last use is noted"
        expected = {
            scope: {e.action.word for e in ENDPOINTS.values() if e.action is not None and not answered(e, scope)}
            for scope in scopes
        }
        assert await refusals(engine) == {scope: words for scope, words in expected.items() if words}
        recorded = await one(
            engine, "SELECT array_agg(DISTINCT actor ORDER BY actor) AS by FROM events WHERE kind = 'token_refused'"
        )
        assert recorded.by == ["token/gone", "token/old", "unknown"]

        for name, endpoint in ENDPOINTS.items():
            may = [scope for scope in scopes if answered(endpoint, scope)]
            answers = await asyncio.gather(*[send(server, made[scope], name) for scope in may])
            for scope, answer in zip(may, answers, strict=True):
                assert answer.status_code not in (401, 403, 500), (name, scope, answer.text)
                if endpoint.lists and answer.status_code == 200:
                    assert ("acme" in answer.text) <= allowed(endpoint.action, scope), (name, scope, answer.text)
        changes = {"released", "template_deleted", "template_deprecated", "paused", "resumed", "invalidated"}
        recorded = await one(
            engine,
            "SELECT array_agg(DISTINCT kind) AS kinds, array_agg(DISTINCT actor) AS by FROM events"
            " WHERE kind = ANY(:kinds)",
            kinds=list(changes),
        )
        assert (set(recorded.kinds), recorded.by) == (changes, ["alice"])


async def refusals(engine: AsyncEngine) -> dict[Scope, set[str]]:
    """The refused actions by the scope of the refused token, as the events say them."""
    found: dict[Scope, set[str]] = defaultdict(set)
    async with engine.connect() as connection:
        rows = await connection.exec_driver_sql("""
            SELECT t.scopes[1] AS scope, e.data ->> 'action' AS action
              FROM events e JOIN tokens t ON t.id::text = e.data ->> 'token_id' WHERE e.kind = 'access_refused'
        """)
        for row in rows:
            found[parse_scope(row.scope)].add(row.action)
    return dict(found)


async def test_foreign_objects_are_answered_as_not_found(engine: AsyncEngine, database_url: str) -> None:
    await make_preset(engine, organization="beta")
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    await do(engine, f"INSERT INTO drills (id, template_id, due_at) VALUES ('{DRILL}', '{preset.template_id}', now())")
    reader = Actor("reader", frozenset({parse_scope("operate:beta")}))
    async with serving(engine, database_url, KnownTokens(reader=reader)) as server:
        claimed = (await server.put("c1", owner="bob")).json()
        ids = (DRILL, claimed["workspace_id"], claimed["build_id"], str(preset.id), str(preset.template_id))
        things = [
            *(f"drills/{DRILL}", "workspaces/bob%2Fdev", f"workspaces/{claimed['workspace_id']}"),
            *("logs/bob%2Fdev", f"logs/{claimed['build_id']}", f"builds/{claimed['build_id']}", "builds?of=bob/dev"),
            *(
                "presets/acme%2Fpython%2Fsmall/explain",
                f"presets/{preset.id}/explain",
                "waiting?preset=acme/python/small",
            ),
            *("templates/acme%2Fpython/rollout", f"templates/{preset.template_id}/rollout", "claims/c1"),
            *(f"{rows}?template=acme/python" for rows in ("drills", "rollouts", "jobs", "presets")),
            "workspaces?preset=acme/python/small",
        ]
        for thing in things:
            missing = thing.replace("dev", "fed").replace("python", "pythan").replace("c1", "c0")
            for id in ids:
                missing = missing.replace(id, str(uuid4()))
            headers = {"Authorization": "Bearer reader"}
            there, gone = [await server.http.get(f"/v1/{path}", headers=headers) for path in (thing, missing)]
            assert there.status_code == gone.status_code == 404, (thing, there.text, gone.text)
            assert there.json().keys() == gone.json().keys(), (thing, there.text, gone.text)
            assert len(there.text) == len(gone.text), (thing, there.text, gone.text)
