"""Drivers that return and raise anything: the build still ends with a typed outcome, and nothing is half written."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from datetime import UTC, datetime
from typing import Any, cast

from hypothesis import strategies as st
from temporalio.testing import ActivityEnvironment

from activities.provisioning import UNEXPECTED_TRIES_MAX, ProvisioningActivities
from prebuilds.api import ProvisionFailed
from prebuilds.payloads import ClaimResult, Replacement
from prebuilds.provisioners.base import (
    InvalidSource,
    Locality,
    OwnedByAnother,
    Progress,
    Provision,
    Provisioned,
    StaleBuild,
    Stopped,
)
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool
from prebuilds.store.lifecycle import stop_workspace
from prebuilds.store.workspaces import release_workspace
from prebuilds.vocabulary import build_id_of
from tests.builders import MadePreset
from tests.inputs.values import Long, Trial, json_values, scalars, texts
from tests.postgres.pool_steps import NotedDispatcher, claim, record_prebuilds
from tests.rows import one

METHODS = ("apply", "claim", "plan", "stop", "destroy")


class Unspeakable(Exception):
    """An error that cannot be printed."""

    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


class Looks:
    """An object with the fields of a reply that is not a reply."""

    address: Any = 5
    resources: Any = None
    state: Any = "x"
    kept: Any = 3


# Values that JSON cannot express, and values that a database refuses.
NO_JSON = (b"\xff", {1, 2}, datetime.now(UTC), object(), {1: 2}, {None: "x"}, {(1, 2): 3})
ERRORS = (ValueError, RuntimeError, ProvisionFailed, InvalidSource, StaleBuild, OwnedByAnother)
SPECIAL = (
    Unspeakable(),
    TimeoutError(),
    RecursionError(),
    KeyError(),
    OSError(),
    SystemExit(3),
    asyncio.CancelledError(),
)

odd_values = json_values | st.sampled_from(NO_JSON)
addresses = st.none() | texts | st.sampled_from((5, b"x", Long("h" * 100_000)))
mappings = st.dictionaries(texts, odd_values, max_size=3) | st.just({"a": Long("x" * 3_000_000)})


def checked(address: Any, resources: Any, state: Any) -> Any:
    try:
        return Provisioned(address=address, resources=resources, state=state)
    except Exception:
        return None


replies = st.one_of(
    st.builds(checked, addresses, mappings, st.none() | mappings),
    st.builds(Provisioned.model_construct, address=addresses, resources=mappings | odd_values, state=odd_values),
    odd_values,
    st.just(Looks()),
    st.just(Stopped(kept=[Replacement(resource="a")])),
    st.lists(st.builds(Replacement, resource=texts, paths=st.lists(texts, max_size=2)), max_size=3),
    st.lists(odd_values, max_size=2),
)
errors = st.builds(lambda kind, text: kind(text), st.sampled_from(ERRORS), texts) | st.sampled_from(SPECIAL)


@dataclasses.dataclass
class Behaviour:
    """A driver's behaviour for every request."""

    reply: Any
    error: BaseException | None
    plan: Any
    lines: list[Any]
    saved: Any
    """A state that it saves first; None: it saves none."""


behaviours = st.builds(
    Behaviour,
    reply=replies,
    error=st.none() | st.none() | errors,
    plan=st.just([]) | replies,
    lines=st.lists(texts | scalars | st.just(Long("x" * 100_000)), max_size=2),
    saved=st.none() | st.none() | mappings | odd_values,
)


class Odd:
    """A driver with a given behaviour."""

    locality = Locality.SHARED

    def __init__(self, behaviour: Behaviour) -> None:
        self._does = behaviour

    async def _do(self, wanted: Provision, progress: Progress) -> Any:
        for line in self._does.lines:
            progress(line)
        if self._does.saved is not None:
            await progress.save_state(self._does.saved)
        if self._does.error is not None:
            raise self._does.error
        return self._does.reply

    apply = claim = stop = destroy = _do

    async def plan(self, wanted: Provision) -> Any:
        return self._does.plan


async def check_build(trial: Trial, preset: MadePreset, method: str, behaviour: Behaviour) -> str:
    """Let a driver with this behaviour do one build. Return the build's outcome."""
    good = Behaviour(Provisioned(address="http://here", state={"is": "good"}), None, [], [], None)
    [workspace_id] = await record_prebuilds(trial.engine, preset, 1)
    build_id = build_id_of(workspace_id, 1)
    if method != "apply":
        await _run(trial, Odd(good), build_id)
        claimed = await _claim(trial, preset)
        build_id, workspace = claimed.build_id, str(claimed.workspace_id)
        if method in ("stop", "destroy"):
            await _run(trial, Odd(good), build_id)
            if method == "stop":
                build_id = (await stop_workspace(trial.engine, workspace, "ops")).build_id
            else:
                build_id = (await release_workspace(trial.engine, workspace, "ops"))[1].id
    await _run(trial, Odd(behaviour), build_id)
    row = await one(
        trial.engine,
        """SELECT b.status, b.error, b.error_type, b.provisioner_state, w.claimable_preset_id, w.address, w.resources
             FROM workspace_builds b JOIN workspaces w ON w.id = b.workspace_id WHERE b.id = :id""",
        id=build_id,
    )
    assert row.status in ("succeeded", "failed", "canceled"), row.status
    assert (row.status == "succeeded") == (row.error is None)
    assert (row.error is None) == (row.error_type is None)
    assert row.error is None or row.error.strip(), "says nothing"
    assert row.provisioner_state is None or isinstance(row.provisioner_state, dict)
    assert isinstance(row.resources, dict)
    assert len(json.dumps(row.resources)) < 1_000_000
    if method == "apply":
        assert (row.claimable_preset_id is not None) == (row.status == "succeeded")
    if row.status == "succeeded" and method in ("apply", "claim"):
        assert isinstance(behaviour.reply, Provisioned)
    return str(row.status)


async def _run(trial: Trial, driver: Odd, build_id: Any) -> None:
    """Run the build's activity as Temporal does, repeatedly until it returns the outcome."""
    activities = ProvisioningActivities(trial.engine, NotedDispatcher(), lambda _: cast("Any", driver), "host")
    beats: list[Any] = []
    for _ in range(UNEXPECTED_TRIES_MAX + 1):
        environment = ActivityEnvironment()
        environment.info = dataclasses.replace(environment.info, heartbeat_details=beats[-1:])
        environment.on_heartbeat = beats.append
        try:
            await environment.run(activities.run_build, build_id)
        except Exception as error:
            str(error)  # Temporal prints it
        else:
            return


async def _claim(trial: Trial, preset: MadePreset) -> ClaimResult:
    async with await create_claim_pool(trial.url, size=1) as pool:
        claimed = (await claim(ClaimStore(pool, enabled=True), preset)).result
    assert claimed is not None
    return claimed
