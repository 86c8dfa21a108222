"""Removes rows that are older than their retention, oldest first, in small batches.

Each rule is one statement of one short transaction. It removes at most `Rule.batch` rows of its table with all that
belongs to them, and waits for no lock: it skips rows that somebody else has locked. Whoever applies a rule holds the
rule's row of the table `retention`, so that several relays share the work and none does another's.

While a restore is found and `prebuilds restored` has not run yet, nothing is removed: the inventory may need all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.rules import Rules
from prebuilds.store import retention_statements as statements
from prebuilds.store.apply import try_lock_apply

IDLE = timedelta(minutes=1)
"""The time until a rule is asked again that has found less than a batch."""
ROUND = timedelta(days=1)
"""How often a walk begins again at the oldest row, since rows that had to stay may go by then."""
VERSIONS_KEPT = 10
"""The newest versions of a template, which stay for going back to."""

TAKE_TURN = text("""
    SELECT walked_at, walked_id, removed_event, now() - round_began_at > CAST(:round AS interval) AS round_ended
      FROM retention
     WHERE rule = :rule AND next_at <= now() AND NOT EXISTS (SELECT FROM settings WHERE restore_found_at IS NOT NULL)
       FOR UPDATE SKIP LOCKED
""")
END_TURN = text("""
    UPDATE retention
       SET next_at = CASE WHEN :more THEN now() ELSE now() + CAST(:idle AS interval) END,
           round_began_at = CASE WHEN :again THEN now() ELSE round_began_at END,
           walked_at = CASE WHEN NOT :again THEN CAST(:walked_at AS timestamptz) END,
           walked_id = CASE WHEN NOT :again THEN CAST(:walked_id AS uuid) END,
           removed_event = greatest(removed_event, CAST(:removed_event AS bigint))
     WHERE rule = :rule
""")
# A batch that meets a lock all the same gives up soon, and is tried again in the next turn.
GIVE_UP_SOON = text("SET LOCAL lock_timeout = '1s'")


@dataclass(frozen=True, slots=True)
class Rule:
    """What is removed, and how much of it at a time."""

    name: str
    """The rule's row of the table `retention`; its setting is `retention_` and this."""
    statement: TextClause
    """Returns one row: a column `removed_TABLE` for each table, `looked_at` (how many rows it has considered), and
    what the next turn needs (`walked_at` and `walked_id`, or `removed_event`)."""
    batch: int
    locks_apply: bool = False
    """Whether it must not run beside `apply`."""


RULES = (
    Rule("logs", statements.LOGS, batch=10),  # builds, of at most 50,000 lines together
    Rule("workspaces", statements.WORKSPACES, batch=200),
    Rule("builds", statements.BUILDS, batch=500),
    Rule("misses", statements.MISSES, batch=500),
    Rule("events", statements.EVENTS, batch=1000),
    Rule("notifications", statements.NOTIFICATIONS, batch=500),
    Rule("versions", statements.VERSIONS, batch=10, locks_apply=True),
    Rule("tokens", statements.TOKENS, batch=500),
    Rule("sign_in_links", statements.SIGN_IN_LINKS, batch=500),
    Rule("requests", statements.REQUESTS, batch=500),
    Rule("demand", statements.DEMAND, batch=1000),
    Rule("drills", statements.DRILLS, batch=500),
)


@dataclass(frozen=True, slots=True)
class Removed:
    """Result of one turn of a retention rule."""

    rows: Mapping[str, int]
    """Rows by table; without tables of which nothing was removed."""
    more: bool
    """Whether there is probably more to remove now."""


async def apply_rule(engine: AsyncEngine, rule: Rule, life: timedelta, rules: Rules) -> Removed | None:
    """Take a turn of a rule and remove at most one batch.

    Args:
        life: The time for which the rule's rows are kept.
        rules: The rules of creation: the rows from which a preset's holds follow stay.
    Returns:
        None if it was not this caller's turn: the rule is not due, another relay runs it, or a restore was found.
    """
    async with engine.begin() as connection:
        turn = (await connection.execute(TAKE_TURN, {"rule": rule.name, "round": ROUND})).one_or_none()
        if turn is None or (rule.locks_apply and not await try_lock_apply(connection)):
            return None
        await connection.execute(GIVE_UP_SOON)
        values = {
            **{"life": life, "limit": rule.batch, "versions_kept": VERSIONS_KEPT},
            **{"hard_limit": rules.failure_hard_limit, "lookback": rules.backoff_lookback},
            **{"walked_at": turn.walked_at, "walked_id": turn.walked_id, "removed_event": turn.removed_event},
        }
        found = (await connection.execute(rule.statement, values)).one()._asdict()
        more = found["looked_at"] >= rule.batch
        after = {
            # A walk that has found nothing further stays where it is: what becomes due comes behind it.
            "walked_at": found.get("walked_at") or turn.walked_at,
            "walked_id": found.get("walked_id") or turn.walked_id,
            "removed_event": found.get("removed_event"),
            "again": not more and turn.round_ended,
        }
        await connection.execute(END_TURN, {"rule": rule.name, "more": more, "idle": IDLE, **after})
    rows = {name.removeprefix("removed_"): n for name, n in found.items() if name in statements.COUNTS and n}
    return Removed(rows, more)
