"""The schema, with the constraints that PostgreSQL itself keeps: a module for each subject, all in one `metadata`.

The migrations must produce exactly this schema; `tests/postgres/test_migrations.py` checks that. Constraints and unique
indexes have names, since code recognizes violations by name.
"""

from __future__ import annotations

from prebuilds.store.tables import claims, demand, deployment, drills, people, rollouts, templates, workspaces
from prebuilds.store.tables.columns import UNFINISHED, metadata

__all__ = [
    "UNFINISHED",
    "claims",
    "demand",
    "deployment",
    "drills",
    "metadata",
    "people",
    "rollouts",
    "templates",
    "workspaces",
]
