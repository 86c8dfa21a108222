"""People join and leave, through the command line, the client and a running workspace."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from prebuilds.api import NotAMember, WorkspaceNotFound
from prebuilds.client import PrebuildsClient
from prebuilds.vocabulary import OnEmpty
from tests.e2e.dev_stack import DevStack, until

ZOE, MAX = "Zoe.Smith@example.com", "max@example.com"
PRESET = "people/python/small"


async def test_a_joiner_claims_at_once_and_a_leavers_workspace_is_handed_on(stack: DevStack) -> None:
    stack.apply("people", 1)
    stack.wait_whole("people")
    client = await PrebuildsClient.connect(stack.facts["temporal_address"])
    claimed = await client.claim(preset=PRESET, owner=ZOE, name="dev", claim_id="zoe-1", create_owner=True)
    await client.wait_until_ready(claimed)
    shown = stack.ask("workspaces", "show", f"{ZOE.lower()}/dev")
    claim_file = Path(shown["resources"]["folder"]).parent / "claim.json"
    assert (shown["owner"], json.loads(claim_file.read_text())["owner"]) == (ZOE, ZOE)

    stack.apply("people", 0)
    stack.wait_whole("people")
    stack.ask("pause", "--reason", "nothing is made for who waits")
    try:
        two: dict[str, Any] = {"preset": PRESET, "owner": ZOE, "name": "two", "on_empty": OnEmpty.WAIT}
        waiting = asyncio.create_task(client.claim(**two, wait_timeout=timedelta(hours=1)))
        await asyncio.to_thread(until, lambda: stack.preset("people")["waiting"] == 1, "the claim to wait")
        [removed] = stack.ask("members", "remove", "people", ZOE)["users"]
        assert (removed["changed"], [w["workspace"] for w in removed["workspaces"]]) == (True, [f"{ZOE}/dev"])
        assert len(removed["waiting_claims"]) == 1
        async with asyncio.timeout(20):
            with pytest.raises(NotAMember):
                await waiting
    finally:
        stack.ask("resume")
    again = stack.cli("members", "remove", "people", ZOE.upper())
    assert (again.code, "nothing to do" in again.out, f"{ZOE}/dev" in again.out) == (0, True, True)

    assert (await client.add_members("people", [MAX])).added == [MAX]
    done = stack.cli("workspaces", "transfer", f"{ZOE}/dev", "--to", MAX, "--wait")
    assert (done.code, f"{MAX}/dev is running" in done.out) == (0, True), done
    assert json.loads(claim_file.read_text())["owner"] == MAX
    assert not (await client.transfer(f"{ZOE}/dev", MAX)).changed, "asked again, by the path of before"
    with pytest.raises(WorkspaceNotFound, match="new claim id"):
        await client.claim(preset=PRESET, owner=ZOE, name="dev", claim_id="zoe-1", create_owner=True)
    assert stack.cli("release", f"{MAX}/dev", "--wait").code == 0
