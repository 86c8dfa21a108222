"""A database and a namespace belong together or not by the ids that both have recorded."""

from __future__ import annotations

from uuid import UUID

import pytest

from prebuilds.api import InvalidInput, StackUnreachable, WrongDeployment
from prebuilds.store.engine import database_named
from prebuilds.temporal.binding import (
    KEY,
    DatabaseSide,
    Fit,
    NamespaceSide,
    _parse_marks,
    check_binding,
    require_expected,
    require_fit,
)
from prebuilds.temporal.stack_file import expected_deployment

OURS, THEIRS = UUID(int=1), UUID(int=2)
MINE, OTHERS, BOTH = {OURS: "db/ours"}, {THEIRS: "db/theirs"}, {OURS: "db/ours", THEIRS: "db/theirs"}


def database(namespace_id: str | None) -> DatabaseSide:
    return DatabaseSide("db:5432/ours", OURS, namespace_id, None if namespace_id is None else f"name-{namespace_id}")


@pytest.mark.parametrize(
    ("recorded", "id_", "marks", "fit"),
    [
        ("a", "a", MINE, Fit.BOUND),
        ("a", "a", BOTH, Fit.BOUND),  # somebody tries to bind it, and will withdraw
        ("a", "a", {}, Fit.DATABASE_ALONE),
        ("a", "a", OTHERS, Fit.NAMESPACE_ELSEWHERE),
        ("a", "b", MINE, Fit.DATABASE_ELSEWHERE),  # as after an adoption of another namespace
        ("a", "b", {}, Fit.DATABASE_ELSEWHERE),
        ("a", "b", OTHERS, Fit.DATABASE_ELSEWHERE),
        (None, "a", {}, Fit.UNBOUND),
        (None, "a", MINE, Fit.UNBOUND),  # an `init` that died half-way
        (None, "a", BOTH, Fit.UNBOUND),
        (None, "a", OTHERS, Fit.NAMESPACE_ELSEWHERE),
        (None, None, {}, Fit.UNKNOWN),
        ("a", None, {}, Fit.UNKNOWN),
        ("b", None, {}, Fit.DATABASE_ELSEWHERE),  # a namespace keeps its name
    ],
)
def test_a_database_and_a_namespace_fit_by_their_recorded_ids(
    recorded: str | None, id_: str | None, marks: dict[UUID, str], fit: Fit
) -> None:
    namespace = NamespaceSide("name-a", "temporal:7233", id_, marks)
    assert check_binding(database(recorded), namespace) is fit
    if fit in (Fit.BOUND, Fit.DATABASE_ALONE, Fit.UNKNOWN):
        assert require_fit(database(recorded), namespace) is fit
        return
    with pytest.raises(StackUnreachable if fit is Fit.UNBOUND else WrongDeployment) as refused:
        require_fit(database(recorded), namespace)
    message = str(refused.value)
    assert "db:5432/ours" in message
    assert "name-a at temporal:7233" in message
    assert "`prebuilds init" in message.rpartition("; ")[2]
    if THEIRS in marks and fit is not Fit.UNBOUND:
        assert f"belongs to deployment {THEIRS} (database db/theirs)" in message


@pytest.mark.parametrize(("marks", "right"), [(MINE, True), (BOTH, True), ({}, True), (OTHERS, False)])
def test_a_client_refuses_another_deployment_than_expected(marks: dict[UUID, str], right: bool) -> None:
    namespace = NamespaceSide("default", "temporal:7233", "a", marks)
    if right:
        require_expected(OURS, namespace)
        return
    with pytest.raises(WrongDeployment, match=rf"default at temporal:7233 belongs to deployment {THEIRS}.*{OURS}"):
        require_expected(OURS, namespace)


def test_foreign_marks_are_parsed_safely() -> None:
    data = {f"{KEY}{OURS}": "db\x1b[31m/ours", f"{KEY}{THEIRS}": "", f"{KEY}no-id": "db", "owner": "somebody"}
    assert _parse_marks(data) == {OURS: r"db\x1b[31m/ours"}


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("postgresql://me:secret@db:5432/prebuilds?password=secret", "db:5432/prebuilds"),
        ("postgresql+asyncpg://me:p%40ss@db/prebuilds", "db/prebuilds"),
        ("postgresql:///prebuilds?host=/run/pg&user=me&password=secret", "/run/pg/prebuilds"),
    ],
)
def test_a_database_is_named_without_its_password(url: str, where: str) -> None:
    assert database_named(url) == where


def test_an_expected_deployment_is_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREBUILDS_DEPLOYMENT", str(OURS))
    assert expected_deployment("temporal:7233") == OURS
    monkeypatch.setenv("PREBUILDS_DEPLOYMENT", "prod")
    with pytest.raises(InvalidInput, match="PREBUILDS_DEPLOYMENT: must be a deployment's id"):
        expected_deployment("temporal:7233")
