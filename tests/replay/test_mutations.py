"""Replay guards the workflows: a change that would break a run in progress is noticed by a stored history."""

from __future__ import annotations

import pytest
from temporalio.workflow import NondeterminismError

from tests.replay.mutating import MODULES, Mutation, mutated, unchanged
from tests.replay.mutations import MUTATIONS, UNNOTICED
from tests.replay.stored import HISTORIES, case_of, load, replay

MUTATIONS_MIN = 15
LONG = "renewed-amid-work"
"""Ten thousand events; it is replayed unchanged beside this, too."""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
async def test_replay_notices_a_change(mutation: Mutation) -> None:
    paths = [path for path in HISTORIES if case_of(path) == (mutation.kind, mutation.case)]
    assert paths, "no stored history goes there"
    with mutated(mutation) as workflow:
        for path in paths:
            assert isinstance(await replay(load(path), workflow), NondeterminismError), path.name


@pytest.mark.parametrize("change", UNNOTICED, ids=str)
async def test_replay_ignores_the_arguments_of_a_command(change: Mutation) -> None:
    """Such a change needs no patch, and no replay finds a mistake in it."""
    with mutated(change) as workflow:
        for path in HISTORIES:
            if case_of(path) == (change.kind, change.case):
                assert await replay(load(path), workflow) is None, path.name


@pytest.mark.parametrize("kind", MODULES)
async def test_a_workflow_compiled_without_a_change_replays(kind: str) -> None:
    """Otherwise replay might notice the compilation instead of the change."""
    cases = {mutation.case for mutation in MUTATIONS if mutation.kind == kind} - {LONG}
    with unchanged(kind) as workflow:
        for path in HISTORIES:
            if case_of(path)[0] == kind and case_of(path)[1] in cases:
                assert await replay(load(path), workflow) is None, path.name


def test_every_workflow_type_is_changed() -> None:
    assert {mutation.kind for mutation in MUTATIONS} == MODULES.keys()
    assert len(MUTATIONS) >= MUTATIONS_MIN


PATCHED = 'if workflow.patched("rest-first"):\n            await workflow.sleep(1)\n        '
WRITES = "self._lost = 0\n        self._errors"


@pytest.mark.parametrize(
    ("new", "is_noticed"),
    [(PATCHED, False), (PATCHED.replace('if workflow.patched("rest-first")', "if True"), True)],
    ids=["patched", "bare"],
)
async def test_a_change_behind_a_patch_replays(new: str, is_noticed: bool) -> None:
    paths = [path for path in HISTORIES if case_of(path) == ("ReconcilePreset", "deletes")]
    assert paths
    with mutated(Mutation("ReconcilePreset", "deletes", "a patch", WRITES, new + WRITES)) as workflow:
        for path in paths:
            assert (await replay(load(path), workflow) is not None) is is_noticed
