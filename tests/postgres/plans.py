"""PostgreSQL's plans of statements with the rows read, also inside functions and constraints.

The server's own `auto_explain` tells them to the connection. So the statements are those that the code runs, with
their values, and none has to be listed twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

SETTINGS = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_format": "json",
    "auto_explain.log_level": "notice",
    "client_min_messages": "notice",
    # Where a table has no index for a condition, its statement reads all of it; else it uses the index, also while the
    # tables of a test are small.
    "enable_seqscan": "off",
}
"""Settings of a database whose sessions tell their plans."""
SCANS = ("Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan")


@dataclass(frozen=True, slots=True)
class Read:
    """One table's part in a statement."""

    table: str
    rows: int
    """The rows that were read, also those that a condition has thrown away."""
    sequential: bool
    statement: str

    def __str__(self) -> str:
        how = "all by a sequential scan" if self.sequential else f"{self.rows} rows"
        return f"{self.table}: {how}, by: {' '.join(self.statement.split())[:400]}"


class Plans:
    """Collects the plans of the statements on some connections."""

    def __init__(self) -> None:
        self.reads: list[Read] = []

    def watch(self, engine: AsyncEngine) -> None:
        """Collect the plans of the engine's connections from now on."""

        @event.listens_for(engine.sync_engine, "connect")
        def listen(connection: Any, _: Any) -> None:
            connection.driver_connection.add_log_listener(self.hear)

    def hear(self, _: asyncpg.Connection, message: Any) -> None:
        """Take a message of the server, and remember it if it is a plan."""
        _, found, plan = str(message.message).partition("plan:\n")
        if found:
            explained = json.loads(plan)
            self.reads += [Read(*scan, explained["Query Text"]) for scan in _scans(explained["Plan"])]


def _scans(node: dict[str, Any]) -> Iterator[tuple[str, int, bool]]:
    if node["Node Type"] in SCANS:
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        rows = round((node["Actual Rows"] + removed) * node["Actual Loops"])
        yield node["Relation Name"], rows, node["Node Type"] == "Seq Scan" and node["Actual Loops"] > 0
    for inner in node.get("Plans", ()):
        yield from _scans(inner)
