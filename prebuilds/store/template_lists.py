"""Lists of what has happened to templates, newest first: drills and rollouts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.policy import Reach
from prebuilds.store.paging import check_limit, cursor, make_page, read_cursor
from prebuilds.store.templates import find_templates_ever
from prebuilds.views import DrillRow, Page
from prebuilds.views.rollouts import RolloutRow

T = TypeVar("T", DrillRow, RolloutRow)


def newest_first(select: str, alias: str, begun: str) -> TextClause:
    """Return the statement of a page for `read_newest`.

    Args:
        select: The statement without conditions. It names the organizations `o`.
        alias: The table whose rows are listed. It has the columns `id`, `template_id` and *begun*.
        begun: When a row began.
    """
    return text(f"""
        {select}
         WHERE (CAST(:templates AS uuid[]) IS NULL OR {alias}.template_id = ANY(CAST(:templates AS uuid[])))
           AND (CAST(:organizations AS text[]) IS NULL OR o.name = ANY(CAST(:organizations AS text[])))
           AND (CAST(:before AS timestamptz) IS NULL
                OR ({alias}.{begun}, {alias}.id) < (:before, CAST(:before_id AS uuid)))
         ORDER BY {alias}.{begun} DESC, {alias}.id DESC LIMIT :limit
    """)


async def read_newest(
    engine: AsyncEngine,
    statement: TextClause,
    parse: Callable[[Row[Any]], T],
    begun: Callable[[T], datetime],
    template: str | None,
    *,
    reach: Reach,
    limit: int,
    after: str | None,
) -> Page[T]:
    """Read a page, newest first.

    Args:
        statement: From `newest_first`.
        template: An id, or a path that means every template of that name; None for all.
        reach: List only those within it.
        after: The `next` of the previous page; None for the first page.
    Raises:
        TemplateNotFound: There never was such a template.
        InvalidInput: *limit* is out of bounds, *after* is no cursor of such a list, or *template* is neither an id nor
            a path.
    """
    before, before_id = (None, None) if after is None else read_cursor(after, datetime, UUID)
    one_more = check_limit(limit) + 1
    async with engine.connect() as connection:
        found = None if template is None else [t.id for t in await find_templates_ever(connection, template, reach)]
        values = {
            "templates": found,
            "organizations": None if reach.all is None else sorted(reach.all),
            "before": before,
            "before_id": before_id,
            "limit": one_more,
        }
        rows = [parse(row) for row in await connection.execute(statement, values)]
    return make_page(rows, limit, lambda row: cursor(begun(row).isoformat(), row.id))
