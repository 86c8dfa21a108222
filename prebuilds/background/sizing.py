"""Keeps the sizes that presets' targets ask for up to date, beside the loop and away from claims."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.background.dispatch import Dispatcher
from prebuilds.planning.lead_times import lead_time
from prebuilds.planning.sizing.choosing import Choice, choose
from prebuilds.planning.sizing.demand import Demand
from prebuilds.planning.sizing.rules import HISTORY_DAYS, Rule
from prebuilds.planning.sizing.stored import rule_of_json, rule_to_json
from prebuilds.planning.sizing.target import SizeTarget
from prebuilds.store.demand import read_demand
from prebuilds.store.outlooks import read_durations
from prebuilds.store.sizes import Sized, Turn, record_size, take_turns

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
CHOSEN_FOR = timedelta(hours=6)
"""How long a rule is followed until it is chosen again. A choice replays two weeks: about two seconds of CPU."""
TRY_AGAIN_AFTER = timedelta(minutes=30)
"""The same while there was too little history to choose by."""
CLAIMS_REPLAYED_MAX = 20_000
"""The newest claims by which a rule is chosen. They bound what a choice of a busy pool costs."""
ALTERNATIVES_SHOWN = 5


class Sizer:
    """Computes sizes in every control worker; each preset's is computed by one of them a minute."""

    def __init__(self, engine: AsyncEngine, dispatcher: Dispatcher) -> None:
        self._engine = engine
        self._dispatcher = dispatcher

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
            sized = await self._size(turn)
            if sized is not None and await record_size(self._engine, turn, sized):
                self._dispatcher.nudge([turn.preset_id])
        return len(turns)

    async def _size(self, turn: Turn) -> Sized | None:
        """The size for the current minute; None while no creation of the preset was ever measured."""
        policy = SizeTarget.of_json(turn.target)
        async with self._engine.connect() as connection:
            durations = (await read_durations(connection, [turn.preset_id])).get(turn.preset_id, [])
        lead = lead_time(durations)
        if policy is None or lead is None:
            return None
        lead_s, rule = lead.total_seconds(), _followed(turn)
        outcome, chosen_at = turn.outcome, turn.chosen_at
        if rule is None or chosen_at is None or _is_stale(turn, chosen_at):
            demand = (await self._demand(turn, HISTORY_DAYS * 24 * 60)).newest(CLAIMS_REPLAYED_MAX)
            choice = await asyncio.to_thread(choose, demand, policy.target, policy.bounds, lead_s)
            rule, outcome, chosen_at = choice.rule, describe(choice), turn.sized_at
        demand = await self._demand(turn, rule.lookback_min(lead_s) + policy.bounds.cool_down_min)
        size = policy.bounds.settle(rule.sizes(demand, lead_s))[-1]
        return Sized(size, rule_to_json(rule), rule.name, outcome, lead_s, chosen_at)

    async def _demand(self, turn: Turn, minutes: int) -> Demand:
        """The demand of the last whole minutes before the turn."""
        begins_at = turn.sized_at.replace(second=0, microsecond=0) - timedelta(minutes=minutes)
        async with self._engine.connect() as connection:
            return await read_demand(connection, turn.template_id, turn.preset_name, begins_at, minutes)


def describe(choice: Choice) -> dict[str, Any]:
    """What a choice came to, as a JSON value: the rule that is followed first, then the cheapest others that met."""
    chosen = [tried for tried in choice.tried if tried.rule == choice.rule]
    others = [tried for tried in choice.tried if tried.met and tried.affordable and tried.rule != choice.rule]
    return {
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
            for tried in [*chosen, *others][: ALTERNATIVES_SHOWN + 1]
        ],
    }


def _followed(turn: Turn) -> Rule | None:
    """The rule that was chosen; None when none was, or another release has chosen it."""
    if turn.rule is None or turn.chosen_for != turn.target:
        return None
    try:
        return rule_of_json(turn.rule)
    except (KeyError, TypeError):
        return None


def _is_stale(turn: Turn, chosen_at: datetime) -> bool:
    outcome: Mapping[str, Any] = turn.outcome or {}
    followed_for = CHOSEN_FOR if outcome.get("enough_history") else TRY_AGAIN_AFTER
    return turn.sized_at - chosen_at > followed_for
