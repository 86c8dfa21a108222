"""Keeps sizes for targets and head starts of windows up to date, beside the loop and away from claims."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.background.dispatch import Dispatcher
from prebuilds.planning.lead_times import head_start, lead_time
from prebuilds.planning.sizing.choosing import FIRST, Choice
from prebuilds.planning.sizing.demand import Demand
from prebuilds.planning.sizing.following import Next, next_size
from prebuilds.planning.sizing.replay import Bounds
from prebuilds.planning.sizing.rules import HISTORY_DAYS, Fixed
from prebuilds.planning.sizing.shrinking import WARRANTED_LEADS, sizes_of_json, sizes_to_json
from prebuilds.planning.sizing.stored import rule_to_json
from prebuilds.planning.sizing.target import SizeTarget
from prebuilds.planning.sizing.tiers import Spares, choose_tiers
from prebuilds.store.demand import read_demand
from prebuilds.store.outlooks import read_durations, read_measured
from prebuilds.store.sizes import Sized, Turn, count_members, followed_rule, record_head_start, record_size, take_turns

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
CHOSEN_FOR = timedelta(hours=6)
"""The time after which a rule is chosen again. A choice replays two weeks: about two seconds of CPU."""
TRY_AGAIN_AFTER = timedelta(minutes=30)
"""The time after which a rule is chosen again if the history was too short for the last choice, or if no promotion was
measured for a target that allows paused prebuilds."""
CLAIMS_REPLAYED_MAX = 20_000
"""Maximum number of claims, the newest ones, by which a rule is chosen; ten times as many for a busy day
(`Demand.newest`). It bounds the cost of a choice."""
REST_AFTER_CHOICE = 2
"""After a choice, a worker waits this many times as long as the choice took, so that other threads get CPU time. Until
their choice, presets are sized by the rule that they have."""
ALTERNATIVES_SHOWN = 5


class Sizer:
    """Computes sizes in every control worker; each preset's is computed by one of them a minute."""

    def __init__(self, engine: AsyncEngine, dispatcher: Dispatcher) -> None:
        self._engine = engine
        self._dispatcher = dispatcher
        self._choose_from = 0.0
        """When the next rule may be chosen, by the event loop's clock."""

    async def run(self) -> None:
        """Compute sizes until cancelled. What fails is logged and tried again."""
        while True:
            try:
                while await self.step():
                    pass
            except Exception as error:
                logger.warning("Sizes could not be computed; it is tried again", extra={"error": repr(error)})
            await asyncio.sleep(INTERVAL_S)

    async def step(self) -> int:
        """Compute the sizes that are due, as many as fit into a step, and have changed pools reconciled.

        Returns:
            How many were due.
        """
        turns = await take_turns(self._engine)
        for turn in turns:
            try:
                lead_s = await self._lead_s(turn)
                if lead_s is None:
                    continue
                if turn.ready_by:
                    before = timedelta(seconds=turn.head_start_s or 0)
                    await record_head_start(self._engine, turn, head_start(timedelta(seconds=lead_s), before), lead_s)
                sized = await self._size(turn, lead_s)
                if sized is not None and await record_size(self._engine, turn, sized):
                    self._dispatcher.nudge([turn.preset_id])
            except Exception as error:  # a preset that cannot be sized must not stop the others
                logger.warning(
                    "A preset's size could not be computed; it is tried again in a minute",
                    extra={"preset_id": str(turn.preset_id), "error": repr(error)},
                )
        return len(turns)

    async def _lead_s(self, turn: Turn) -> float | None:
        """Return the lead time in seconds; None until a creation of the preset was measured."""
        async with self._engine.connect() as connection:
            durations = (await read_durations(connection, [turn.preset_id])).get(turn.preset_id, [])
        lead = lead_time(durations)
        # If the pool's creations were removed by retention, its last known lead time is used.
        return lead.total_seconds() if lead is not None else turn.lead_s

    async def _size(self, turn: Turn, lead_s: float) -> Sized | None:
        """Return the size for the current minute; None without a readable target."""
        policy = SizeTarget.of_json(turn.target)
        if policy is None:
            return None
        rule, outcome, chosen_at = followed_rule(turn.rule) or FIRST, turn.outcome, turn.chosen_at
        if turn.chosen_for != turn.target:
            outcome, chosen_at = None, None
        # The last one is what was wanted last. Until a choice for a changed target, it stays.
        held = sizes_of_json(turn.paused_holding) if policy.max_paused else []
        wanted = held[-1].size if held else None
        now = asyncio.get_running_loop().time
        if (chosen_at is None or _is_stale(turn, chosen_at)) and now() >= self._choose_from:
            demand = await self._demand(turn, HISTORY_DAYS * 24 * 60)
            spares = await self._spares(turn, policy)
            begun = now()
            choice = await asyncio.to_thread(_choose, demand, policy, lead_s, spares)
            self._choose_from = now() + REST_AFTER_CHOICE * (now() - begun)
            rule, outcome, chosen_at = choice.rule, describe(choice, spares), turn.sized_at
            # Without enough history, or before a promotion was measured, the count is as it is written.
            wanted = None if spares is None or not choice.tried else choice.paused
        demand = await self._demand(turn, rule.lookback_min(lead_s) + policy.bounds.cool_down(lead_s))
        holding = sizes_of_json(turn.holding)
        found = await asyncio.to_thread(
            next_size, rule, demand, lead_s, policy.bounds, at=turn.sized_at, before=turn.size, holding=holding
        )
        size = await self._settled(turn, found, lead_s)
        paused, paused_holding = None, []
        if wanted is not None:
            of_paused = next_size(
                Fixed(wanted),
                demand,
                lead_s,
                Bounds(max=policy.max_paused),
                at=turn.sized_at,
                before=turn.standby if turn.paused is None else turn.paused,
                holding=sizes_of_json(turn.paused_holding),
            )
            paused = await self._settled(turn, of_paused, lead_s, paused=True)
            paused_holding = sizes_to_json(of_paused.holding)
        return Sized(
            size,
            sizes_to_json(found.holding),
            rule_to_json(rule),
            rule.name,
            outcome,
            lead_s,
            chosen_at,
            paused,
            paused_holding,
        )

    async def _settled(self, turn: Turn, found: Next, lead_s: float, *, paused: bool = False) -> int:
        """Return the size of a tier to follow, which deletes no member that is too young, given its cost."""
        young = 0
        if found.shrinks:
            since = turn.sized_at - timedelta(seconds=WARRANTED_LEADS * lead_s)
            async with self._engine.connect() as connection:
                young = await count_members(connection, turn.preset_id, since, turn.sized_at, paused=paused)
        return found.size(young)

    async def _spares(self, turn: Turn, policy: SizeTarget) -> Spares | None:
        """Return the paused prebuilds that may be chosen, with their measured times; None if the target allows none,
        and until a promotion or a resume of the preset was measured."""
        if not policy.max_paused:
            return None
        async with self._engine.connect() as connection:
            measured = (await read_measured(connection, [turn.preset_id], [turn.preset_id]))[turn.preset_id]
        if measured.has_resumed:
            return measured.spares(policy.max_paused, policy.paused_cost)
        return spares_before(turn.outcome, policy)

    async def _demand(self, turn: Turn, minutes: int) -> Demand:
        """The demand of the last whole minutes before the turn."""
        begins_at = turn.sized_at.replace(second=0, microsecond=0) - timedelta(minutes=minutes)
        async with self._engine.connect() as connection:
            return await read_demand(connection, turn.template_id, turn.preset_name, begins_at, minutes, turn.timezone)


def _choose(demand: Demand, policy: SizeTarget, lead_s: float, spares: Spares | None) -> Choice:
    return choose_tiers(demand.newest(CLAIMS_REPLAYED_MAX), policy.target, policy.bounds, lead_s, spares)


def spares_before(outcome: Mapping[str, Any] | None, policy: SizeTarget) -> Spares | None:
    """Return the paused prebuilds with the times of an earlier choice, for when retention has removed the builds by
    which these were measured; None without any."""
    times = [(outcome or {}).get(name) for name in ("promotion_seconds", "resume_seconds")]
    promotion_s, resume_s = times
    if promotion_s is None or resume_s is None:
        return None
    return Spares(policy.max_paused, promotion_s, resume_s, policy.paused_cost)


def describe(choice: Choice, spares: Spares | None = None) -> dict[str, Any]:
    """Return a choice as a JSON value: first the followed rule, then the cheapest others that met the target.

    Args:
        spares: The paused prebuilds of which the choice was free; None: of none.
    """
    followed = (choice.rule, choice.paused)
    chosen = [tried for tried in choice.tried if (tried.rule, tried.paused) == followed]
    others = [t for t in choice.tried if t.met and t.affordable and (t.rule, t.paused) != followed]
    measured = {} if spares is None else {"promotion_seconds": spares.promotion_s, "resume_seconds": spares.resume_s}
    return measured | {
        "met": choice.met,
        "enough_history": bool(choice.tried),
        "tried": [
            {
                "rule": tried.rule.name,
                "hit_rate": tried.score.hit_rate,
                "wait_p95_seconds": tried.score.wait_s(0.95),
                "idle_mean": tried.score.idle_mean,
                "member_hours": tried.score.member_hours,
                "met": tried.met,
            }
            | ({} if spares is None else {"paused": tried.paused})
            for tried in [*chosen, *others][: ALTERNATIVES_SHOWN + 1]
        ],
    }


def _is_stale(turn: Turn, chosen_at: datetime) -> bool:
    outcome: Mapping[str, Any] = turn.outcome or {}
    lacks_promotion = "max_paused" in (turn.target or {}) and "promotion_seconds" not in outcome
    followed_for = CHOSEN_FOR if outcome.get("enough_history") and not lacks_promotion else TRY_AGAIN_AFTER
    return not timedelta(0) <= turn.sized_at - chosen_at <= followed_for  # negative if a clock was set back
