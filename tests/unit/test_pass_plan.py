"""A whole pass: the presets with work, their order, the notes; and its agreement with each preset's own plan."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.planning.holds import Held, Hold
from prebuilds.planning.pass_plan import Note, PassPlan, hold_note, plan_pass
from prebuilds.planning.plan import CREATES_PER_PASS_MAX, plan_preset
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import GlobalSnapshot, PresetSnapshot
from tests.unit.pools import (
    DELETE,
    FAILED,
    HOUR,
    MINUTE,
    NOW,
    PENDING,
    RUNNING,
    SECOND,
    TICK,
    UNREADABLE,
    creations,
    deployments,
    failed,
    history_of,
    ids,
    pool,
    prebuild,
    prebuilds,
    whole,
)


def of(pools: list[PresetSnapshot], passes: int = 0) -> GlobalSnapshot:
    return whole(*pools, paused=pools[0].paused, rules=pools[0].rules, passes=passes)


OLD_EVIDENCE = prebuild(9, status=FAILED, ended_at=NOW - HOUR - TICK)


@pytest.mark.parametrize(
    ("found", "deletes", "creates"),
    [
        (pool(1), False, 3),
        (pool(1, *prebuilds(2)), False, 1),
        (pool(1, *prebuilds(3)), False, 0),
        (pool(1, *prebuilds(4)), True, 0),
        (pool(1, *prebuilds(3), last_invalidated_at=NOW), True, 3),
        (pool(1, *prebuilds(2), prebuild(9, probe_failures=2)), True, 1),
        (pool(1, *prebuilds(3), OLD_EVIDENCE), True, 0),
        (pool(1, *prebuilds(3), replace(OLD_EVIDENCE, kept=True)), False, 0),
        (pool(1, *creations(3)), False, 0),
        (pool(1, *prebuilds(3), prebuild(9, DELETE, PENDING)), False, 0),
        (pool(1, active=False), False, 0),
        (pool(1, prebuild(1), active=False), True, 0),
        (pool(1, *creations(1), active=False), True, 0),
        (pool(1, prebuild(1, status=RUNNING), active=False), False, 0),
        (pool(1, OLD_EVIDENCE, active=False), True, 0),
        (pool(1, base_instances=0), False, 0),
        (pool(1, history=history_of(failed(SECOND))), False, 0),
        (pool(1, *prebuilds(4), history=history_of(failed(SECOND))), True, 0),
    ],
)
def test_a_preset_has_work_when_it_creates_or_deletes(found: PresetSnapshot, deletes: bool, creates: int) -> None:
    (turn,) = plan_pass(whole(found)).decisions
    assert (turn.deletes, turn.creates, turn.has_work) == (deletes, creates, deletes or creates > 0)


def test_a_pass_over_nothing_has_no_work() -> None:
    plan = plan_pass(whole())
    assert (plan.decisions, plan.presets_to_reconcile(500), plan.notes(), plan.short_of_capacity) == ([], [], [], False)


def test_a_paused_pass_has_no_work_and_no_notes() -> None:
    pools = [pool(1), pool(2, *prebuilds(9)), pool(3, prebuild(1), active=False), pool(4, *creations(1), active=False)]
    plan = plan_pass(whole(*pools, paused=True, rules=Rules(max_pending_builds=1)))
    assert plan.paused
    assert (plan.presets_to_reconcile(500), plan.notes(), plan.short_of_capacity) == ([], [], False)
    assert [turn.held for turn in plan.decisions] == [Held(Hold.PAUSED), Held(Hold.PAUSED), None, None]
    assert len(plan_pass(whole(*pools)).presets_to_reconcile(500)) == 4


# --- The order and the bound ---


def mixed(passes: int = 0) -> PassPlan:
    """Presets 2, 4 and 6 delete, 1, 3, 5 and 8 create, 7 rests."""
    deleting = [pool(n, *prebuilds(4)) for n in (2, 4)] + [pool(6, prebuild(1), active=False)]
    found = [*deleting, *(pool(n) for n in (1, 3, 5, 8)), pool(7, *prebuilds(3))]
    return plan_pass(whole(*sorted(found, key=lambda p: p.preset.id), passes=passes))


@pytest.mark.parametrize(
    ("limit", "passes", "order"),
    [
        (500, 0, [2, 4, 6, 1, 3, 5, 8]),
        (7, 0, [2, 4, 6, 1, 3, 5, 8]),
        (6, 0, [2, 4, 6, 1, 3, 5]),
        (4, 0, [2, 4, 6, 1]),
        (3, 0, [2, 4, 6]),
        (2, 0, [2, 4]),
        (1, 0, [2]),
        (0, 0, []),
        (2, 1, [6, 2]),
        (2, 2, [4, 6]),
        (2, 3, [2, 4]),
        (5, 1, [6, 2, 4, 5, 8]),
        (5, 2, [4, 6, 2, 1, 3]),
    ],
)
def test_deletions_come_first_and_each_group_takes_turns(limit: int, passes: int, order: list[int]) -> None:
    assert mixed(passes).presets_to_reconcile(limit) == ids(*order)


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 10_000))
@settings(deadline=None)
def test_every_preset_is_served_within_a_few_passes(presets: int, limit: int, passes: int) -> None:
    """Each preset keeps having work, and all are served in the fewest possible passes."""
    for rows in ([], prebuilds(4)):
        found = [pool(n, *rows) for n in range(1, presets + 1)]
        rounds = range(-(-presets // limit))
        served = [plan_pass(whole(*found, passes=passes + n)).presets_to_reconcile(limit) for n in rounds]
        assert all(len(turn) == len({*turn}) == min(limit, presets) for turn in served)
        assert {preset for turn in served for preset in turn} == {p.preset.id for p in found}


def test_a_barred_organization_waits_and_nobody_else() -> None:
    one, other = ids(101, 102)
    found = [pool(n, organization_id=org) for n, org in enumerate((one, other, one, None), 1)]
    found += [pool(5, *prebuilds(4), organization_id=one)]
    taken = whole(*found)
    assert plan_pass(taken, {one}).presets_to_reconcile(500) == ids(2, 4)
    assert plan_pass(taken, {one}).presets_to_reconcile(1) == ids(2), "a preset that is left out takes nobody's turn"
    assert plan_pass(taken, {one, other}).presets_to_reconcile(500) == ids(4)
    assert plan_pass(taken).presets_to_reconcile(500) == ids(5, 1, 2, 3, 4)
    limited = replace(taken, rules=Rules(max_pending_builds=3))
    turns = plan_pass(limited, {one}).decisions
    assert [t.creates for t in turns if t.item.preset.id in ids(2, 4)] == [2, 1], "nor a share"


# --- What is told ---

BACKOFF = history_of(failed(SECOND))
UNTIL = (NOW - SECOND + MINUTE).isoformat()


@pytest.mark.parametrize(
    ("found", "capacity", "expected"),
    [
        (pool(1), None, []),
        (pool(1, history=BACKOFF), None, [("creation_held", {"reason": "backoff", "until": UNTIL})]),
        (pool(1, *prebuilds(3), history=BACKOFF), None, []),  # nothing is withheld
        (pool(1, history=BACKOFF, active=False), None, []),
        (
            pool(1, history=history_of(*[failed(SECOND)] * 3)),
            None,
            [("creation_held", {"reason": "hard_limited", "until": None})],
        ),
        (
            pool(1, history=history_of(failed(SECOND), invalid_at=NOW - SECOND)),
            None,
            [("creation_held", {"reason": "validation_failed", "until": None})],
        ),
        (pool(1), 3, []),
        (pool(1), 2, [("creation_held", {"reason": "capacity", "until": None})]),
        (pool(1, *creations(1)), 1, [("creation_held", {"reason": "capacity", "until": None})]),
        (
            pool(1, *prebuilds(3), **UNREADABLE),
            None,
            [
                (
                    "schedule_unreadable",
                    {
                        "why": "timezone Mars/Olympus is not known; name one such as Europe/Berlin or UTC",
                        "base": 3,
                    },
                )
            ],
        ),
        (pool(1, active=False, **UNREADABLE), None, []),
    ],
)
def test_notes_say_what_is_withheld_now(
    found: PresetSnapshot, capacity: int | None, expected: list[tuple[str, dict[str, str | int | None]]]
) -> None:
    notes = plan_pass(whole(found, rules=Rules(max_pending_builds=capacity))).notes()
    assert notes == [Note(UUID(int=1), kind, data) for kind, data in expected]


def test_a_hold_and_an_unreadable_schedule_are_two_notes() -> None:
    found = [pool(1, history=BACKOFF, **UNREADABLE), pool(2), pool(3, **UNREADABLE)]
    notes = plan_pass(whole(*found)).notes()
    kinds = [(note.preset_id.int, note.kind) for note in notes]
    assert kinds == [(1, "creation_held"), (1, "schedule_unreadable"), (3, "schedule_unreadable")]


def test_a_pass_and_a_preset_describe_a_hold_equally() -> None:
    found = pool(1, history=BACKOFF)
    plan = plan_preset(found, 1)
    assert plan.held is not None
    assert plan_pass(whole(found)).notes() == [hold_note(plan.preset_id, Held(Hold(plan.held), plan.held_until))]


# --- Properties ---


@given(deployments(), st.integers(0, 50))
@settings(deadline=None, max_examples=200)
def test_a_preset_has_work_exactly_when_its_plan_has(pools: list[PresetSnapshot], passes: int) -> None:
    whole_plan = plan_pass(of(pools, passes))
    for found, turn in zip(pools, whole_plan.decisions, strict=True):
        share = whole_plan.shares.pending_max(found.preset.id) if whole_plan.shares else None
        plan = plan_preset(found, 1, share)
        assert turn.has_work is not plan.empty
        assert len(plan.create) == min(turn.creates, CREATES_PER_PASS_MAX)
        assert turn.deletes is bool(plan.delete or plan.cancel)
        if found.preset.active:
            held = None if plan.held is None else Held(Hold(plan.held), plan.held_until)
            assert turn.held == held
    working = whole_plan.presets_to_reconcile(500)
    assert sorted(working) == [turn.item.preset.id for turn in whole_plan.decisions if turn.has_work]
    assert not (whole_plan.paused and working)


@given(deployments(), st.integers(0, 50))
@settings(deadline=None)
def test_another_preset_changes_nothing_but_the_share(pools: list[PresetSnapshot], passes: int) -> None:
    together = plan_pass(of(pools, passes)).decisions
    for found, turn in zip(pools, together, strict=True):
        (alone,) = plan_pass(of([found], passes)).decisions
        assert (turn.state, turn.deletes, turn.item) == (alone.state, alone.deletes, alone.item)
        if found.rules.max_pending_builds is None:
            assert turn == alone
