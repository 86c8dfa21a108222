"""Stories of the loop: asked, busy, stopped, cancelled, and renewed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any
from uuid import UUID

from temporalio.client import WorkflowHandle, WorkflowUpdateStage

from prebuilds.client import PrebuildsClient
from prebuilds.vocabulary import ORCHESTRATOR_ID, reconcile_preset_id
from tests.e2e.dev_stack import DevStack, frozen, until
from tests.replay.story_steps import (
    QUICK,
    ask_client,
    begin,
    claim_words,
    locked,
    until_closed,
)
from workflows.orchestrator import HISTORY_EVENTS_MAX

SIGNALS_AT_ONCE = 100
SIGNALS_A_TASK = 1000
"""Ten times as many in one task take longer than the two seconds after which the SDK calls it a deadlock."""
BURSTS = 9
"""Temporal takes 10,000 signals a run; the tasks of the last ones make up the rest."""


def a_client_asks_the_loop(stack: DevStack) -> None:
    os.kill(stack.facts["pids"]["control"], signal.SIGKILL)  # in mid-loop, so that its work is repeated
    stack.ask(*claim_words("claims", "while-away"))
    stack.wait_whole("claims")
    stack.ask("stop", "--wait", "--cause", "to begin a run")
    stack.ask("start")
    _signal(stack, "halt", '"typo"')
    _signal(stack, "nudge", "[]")
    stack.ask(*claim_words("claims", "asked"))
    stack.ask("reconcile", "--wait")
    _signal(stack, "set_interval", "1")
    stack.wait_whole("claims")


def a_preset_is_busy(stack: DevStack) -> None:
    """A child that another caller started is at the preset when the loop needs it."""
    with locked(stack, "claims"):
        preset = stack.preset("claims")["preset_id"]
        stack.cli("stop", "--wait", "--cause", "to begin a child by hand")
        stack.ask(*claim_words("claims", "busy"))
        begin(stack, "ReconcilePreset", reconcile_preset_id(preset), "prebuilds", {"preset_id": preset})
        stack.ask("start")
        time.sleep(3)
    stack.wait_whole("claims")


def the_loop_is_stopped_in_mid_pass(stack: DevStack) -> None:
    with locked(stack, "claims"):
        stack.ask(*claim_words("claims", "mid-pass"))
        _until_reconciling(stack, 1)
        time.sleep(5)  # for a pass that finds it, too
        _signal(stack, "stop", '"in mid-pass"')
        until(lambda: stack.status()["loop"]["state"] == "draining", "the drain")
        begin(stack, "OperatorRequest", "request-3", "prebuilds", {"action": "start"})  # it waits for the drain
        time.sleep(1)
        stack.temporal("workflow", "cancel", "-w", "request-3")
        time.sleep(2)
    until_closed(stack, ORCHESTRATOR_ID)
    stack.ask("start")
    stack.wait_whole("claims")


def the_loop_is_canceled(stack: DevStack) -> None:
    stack.temporal("workflow", "cancel", "-w", ORCHESTRATOR_ID)
    until_closed(stack, ORCHESTRATOR_ID)
    stack.ask("start")


def the_loop_is_renewed_when_idle(stack: DevStack) -> None:
    stack.wait_whole("claims")
    for _ in range(5):
        ask_client(stack, _mistype_a_hundred)
        time.sleep(2)
    stack.ask(*claim_words("claims", "renewed"))
    stack.wait_whole("claims")


def the_loop_is_renewed_amid_work(stack: DevStack) -> None:
    """The history gets too long while children run, a preset waits for its turn, and a caller waits for the preset."""
    for organization in ("renewed-a", "renewed-b", "renewed-c"):
        stack.apply(organization, 1, **QUICK)
        stack.wait_whole(organization)
    waiting = UUID(stack.preset("renewed-c")["preset_id"])
    _signal(stack, "set_interval", "600")
    with locked(stack, "renewed-a", "renewed-b"):
        for organization in ("renewed-a", "renewed-b"):
            stack.ask(*claim_words(organization, organization))
        _until_reconciling(stack, 2)
        ask_client(stack, lambda client: _ask_for(client, waiting))
        for _ in range(BURSTS):
            with frozen(stack, "control"):  # else each signal costs a task of its own, and all take minutes
                ask_client(stack, _mistype)
            time.sleep(1)
        ask_client(stack, _outgrow)
        _signal(stack, "set_interval", "300")  # wakes the loop
        time.sleep(1)
    _signal(stack, "nudge", "[]")
    _signal(stack, "set_interval", "2")
    for organization in ("renewed-a", "renewed-b", "renewed-c"):
        stack.wait_whole(organization)


async def _ask_for(client: PrebuildsClient, preset: UUID) -> None:
    """Request a preset's pass without waiting for it."""
    loop: WorkflowHandle[Any, Any] = client.temporal.get_workflow_handle(ORCHESTRATOR_ID)
    await loop.start_update("reconcile", [str(preset)], wait_for_stage=WorkflowUpdateStage.ACCEPTED)


async def _mistype(client: PrebuildsClient) -> None:
    """Send the loop signals that lengthen its history and change nothing."""
    for _ in range(SIGNALS_A_TASK // SIGNALS_AT_ONCE):
        await _mistype_a_hundred(client)


async def _mistype_a_hundred(client: PrebuildsClient) -> None:
    loop: WorkflowHandle[Any, Any] = client.temporal.get_workflow_handle(ORCHESTRATOR_ID)
    await asyncio.gather(*[loop.signal("halt") for _ in range(SIGNALS_AT_ONCE)])


async def _outgrow(client: PrebuildsClient) -> None:
    """Send such signals until the history has its maximum length."""
    loop: WorkflowHandle[Any, Any] = client.temporal.get_workflow_handle(ORCHESTRATOR_ID)
    while (await loop.describe()).history_length < HISTORY_EVENTS_MAX:
        await loop.signal("halt")


def _until_reconciling(stack: DevStack, presets: int) -> None:
    async def ask(client: PrebuildsClient) -> int:
        return len((await client.loop()).reconciling)

    until(lambda: ask_client(stack, ask) >= presets, f"{presets} presets to be reconciled")


def _signal(stack: DevStack, name: str, given: str) -> None:
    result = stack.temporal("workflow", "signal", "-w", ORCHESTRATOR_ID, "--name", name, "--input", given)
    assert result.code == 0, result
