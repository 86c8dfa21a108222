"""The short steps of a version lock only the catalog and never read a table's rows."""

from __future__ import annotations

import re

import pytest

from prebuilds.store.migrate import HEAD_REVISION, PREVIOUS_REVISION
from prebuilds.store.schema_steps import IndexStep, OnlineStep, ShortStep, Step
from prebuilds.store.schema_versions import versions_from

LOOKS_AT_ROWS = re.compile(
    r"^\s*(UPDATE|DELETE|REINDEX|CLUSTER|VACUUM)\b|SET\s+NOT\s+NULL|ALTER\s+(COLUMN\s+)?\w+\s+(SET\s+DATA\s+)?TYPE\b"
    r"|VALIDATE\s+CONSTRAINT|GENERATED\s+ALWAYS\s+AS\s*\(|ADD\s+COLUMN[^,]*(random|clock_timestamp|gen_random_uuid)\(",
    re.IGNORECASE,
)
ADDS_CONSTRAINT = re.compile(r"ALTER\s+TABLE.*ADD\s+CONSTRAINT(?!.*NOT\s+VALID)", re.IGNORECASE | re.DOTALL)
INDEXES = re.compile(r"CREATE\s+(?:UNIQUE\s+)?INDEX\s+\w+\s+ON\s+(\w+)", re.IGNORECASE)
CREATES = re.compile(r"CREATE\s+TABLE\s+(\w+)", re.IGNORECASE)
STEPS = [step for version in versions_from(PREVIOUS_REVISION) for step in (*version.expand, *version.contract)]


def faults_of(step: Step) -> list[str]:
    """Return the operations of a step that would block workers."""
    if not isinstance(step, ShortStep) or step.name.startswith("function_"):
        return []
    made = {table for statement in step.statements for table in CREATES.findall(statement)}
    return [
        statement
        for statement in step.statements
        if LOOKS_AT_ROWS.search(statement)
        or ADDS_CONSTRAINT.search(statement)
        or set(INDEXES.findall(statement)) - made
    ]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_step_keeps_nobody_waiting(step: Step) -> None:
    assert faults_of(step) == [], "make it a step of another kind; CONTRIBUTING.md, A migration, says which"


def test_names_are_given_once_and_the_newest_version_is_this_release() -> None:
    assert len({step.name for step in STEPS}) == len(STEPS)
    assert [version.revision for version in versions_from(PREVIOUS_REVISION)] == [PREVIOUS_REVISION, HEAD_REVISION]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE workspaces SET note = name",
        "ALTER TABLE workspaces ALTER note SET NOT NULL",
        "ALTER TABLE workspaces ALTER COLUMN number TYPE bigint",
        "ALTER TABLE workspaces ADD CONSTRAINT note_check CHECK (note <> '')",
        "ALTER TABLE workspaces ADD COLUMN id2 uuid DEFAULT gen_random_uuid()",
        "CREATE INDEX note_idx ON workspaces (note)",
    ],
)
def test_a_blocking_step_is_found(statement: str) -> None:
    assert faults_of(ShortStep("made_up", (statement,))) == [statement]


def test_a_new_database_gets_all_steps_at_once() -> None:
    assert IndexStep("i", "t (c)", unique=True).at_once == ("CREATE UNIQUE INDEX i ON t (c)",)
    assert OnlineStep("d", "DROP INDEX CONCURRENTLY IF EXISTS i").at_once == ("DROP INDEX IF EXISTS i",)
