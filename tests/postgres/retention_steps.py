"""Turns of the rules of retention, as a relay takes them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.settings import Settings
from prebuilds.settings.retention import retention_of
from prebuilds.store.retention import RULES, Removed, apply_rule
from tests.rows import do, one


async def take_turn(
    engine: AsyncEngine, name: str, *, life: timedelta | None = None, batch: int | None = None
) -> Removed | None:
    """Take a turn of a rule, which is due.

    Args:
        life: None for the setting's default.
        batch: None for the rule's own.
    """
    await do(engine, "UPDATE retention SET next_at = now() WHERE rule = :rule", rule=name)
    [rule] = [rule for rule in RULES if rule.name == name]
    settings = Settings()
    return await apply_rule(
        engine,
        rule if batch is None else replace(rule, batch=batch),
        retention_of(settings, name) if life is None else life,
        settings.rules,
    )


async def remove_old(
    engine: AsyncEngine, name: str, *, life: timedelta | None = None, batch: int | None = None
) -> dict[str, int]:
    """Take a turn and return the number of rows removed from each table."""
    removed = await take_turn(engine, name, life=life, batch=batch)
    assert removed is not None
    return dict(removed.rows)


async def count(engine: AsyncEngine, table: str, where: str = "true") -> int:
    """Return the number of a table's rows that meet a condition."""
    return int((await one(engine, f"SELECT count(*) AS n FROM {table} WHERE {where}")).n)
