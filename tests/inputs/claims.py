"""Claims' payloads of any kind: each gets an answer or a typed refusal, and a refused one takes nothing."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from temporalio.testing import ActivityEnvironment

from activities.claims import ClaimActivities
from prebuilds.api import InvalidInput, PrebuildsError
from prebuilds.operations.claims import Claims
from prebuilds.store.claims import ClaimStore
from tests.inputs.values import NO_ID, Trial, check_refusal, dump, json_values, scalars, texts
from tests.postgres.pool_steps import RULES, NotedDispatcher, new_run

RECORDS = ("claims", "events", "claim_denials", "claim_demand", "demand")
"""Tables that keep what was asked and refused."""
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "preset": st.sampled_from(("acme/python/small", "acme/python/none", NO_ID)),
    "template": st.just("acme/python"),
    "parameters": st.just({"size": "1"}),
    "owner": st.sampled_from(("alice", "bob@example.com", "stranger")),
    "initiator": st.sampled_from(("alice", "bob@example.com")),
    "create_owner": st.booleans(),
    "autostart_schedule": st.sampled_from(("CRON_TZ=Europe/Berlin 0 9 * * 1-5", "0 9 31 2 *", "0 9 * * 1")),
    "next_start_at": st.sampled_from(("2026-03-02T09:14:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z")),
    "ttl_seconds": st.sampled_from((0, 1, 0.001, 1e-9, 3600.5, 31_536_000)),
    "lease_seconds": st.sampled_from((60, 90.5, 2_592_000)),
    "claim_parameters": st.just({"key": "secret"}),
    "on_empty": st.sampled_from(("fail", "create", "wait")),
    "wait_timeout_seconds": st.sampled_from((1, 1e-9, 86_400)),
    "on_timeout": st.sampled_from(("fail", "create")),
}
NAMES = (f"tried{n}" for n in itertools.count(1))
names = st.builds(lambda: next(NAMES))
odd = json_values | scalars | texts


@st.composite
def requests(draw: st.DrawFn) -> Any:
    """A claim with some of its fields, a few of them odd."""
    if draw(st.integers(0, 9)) == 0:
        return draw(odd)
    request: dict[str, Any] = {"preset": "acme/python/small", "owner": "alice", "name": draw(names)}
    for name in draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=4, unique=True)):
        request[name] = draw(FIELDS[name])
    for name in draw(st.lists(st.sampled_from([*sorted(FIELDS), "name", "names"]) | texts, max_size=2)):
        request[name] = draw(odd)
    if draw(st.integers(0, 9)) == 0:
        request["names"] = [request.pop("name", "n"), draw(names)]
    return request


claim_ids = st.builds(lambda: f"claim-{next(NAMES)}") | texts


async def check_claim(trial: Trial, pool: Any, raw: Any, claim_id: str) -> str:
    """Claim once and return the outcome."""
    store = ClaimStore(pool, enabled=True)
    activities = ClaimActivities(Claims(trial.engine, store, NotedDispatcher(), RULES))
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, workflow_id=f"claim-workspace/{claim_id}")
    step = activities.claim_all if isinstance(raw, dict) and "names" in raw else activities.claim
    before = await dump(trial.engine, without=RECORDS)
    try:
        await environment.run(step, raw, claim_id, new_run())
    except PrebuildsError as refused:
        check_refusal(refused, fields=isinstance(refused, InvalidInput))
        assert await dump(trial.engine, without=RECORDS) == before, "a refused claim has taken something"
        return refused.type
    return "answered"
