"""Errors as HTTP problems: each has a status and states the remedy."""

from __future__ import annotations

import json

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout

from prebuilds.api import (
    ERRORS,
    DatabaseRestored,
    InvalidInput,
    NameTaken,
    NoClaimablePrebuiltWorkspaces,
    StackUnreachable,
    StoreUnavailable,
    WrongDeployment,
)
from prebuilds.failures.database import store_answers
from prebuilds.http.problems import STATUSES, describe, respond
from prebuilds.http.serving import bound_socket
from prebuilds.http.waiting import wait_of
from prebuilds.vocabulary import MissReason


def test_each_error_has_a_status_and_no_other_name_has_one() -> None:
    assert set(STATUSES) == set(ERRORS)


def test_a_problem_names_its_fields() -> None:
    problem = describe(InvalidInput("no", {"name": "is required"}), claim_id="c1")
    assert (problem.status, problem.title, problem.code) == (422, "Unprocessable Entity", "InvalidInput")
    assert (problem.errors, problem.details, problem.claim_id) == ({"name": "is required"}, {}, "c1")
    assert describe(NameTaken("no", {"name": "is taken"})).errors == {"name": "is taken"}


def test_a_miss_is_429_where_waiting_helps_and_409_where_it_cannot() -> None:
    def status(reason: str | None) -> int:
        return describe(NoClaimablePrebuiltWorkspaces("no", {"miss_reason": reason})).status

    refused = {MissReason.NO_POOL, MissReason.HELD, MissReason.PAUSED}
    assert {reason: status(reason) for reason in MissReason} == {
        reason: 409 if reason in refused else 429 for reason in MissReason
    }


def test_an_unavailable_service_is_answered_with_retry_after() -> None:
    away = respond(describe(StoreUnavailable("away")))
    assert (away.status_code, away.headers["retry-after"]) == (503, "1")
    assert (away.media_type, json.loads(bytes(away.body))["retry_after_seconds"]) == ("application/problem+json", 1)
    restored = respond(describe(DatabaseRestored("no")))
    assert (restored.status_code, restored.headers["retry-after"]) == (503, "60")
    soon = respond(describe(NoClaimablePrebuiltWorkspaces("no"), retry_after_s=12.2))
    assert soon.headers["retry-after"] == "13", "never before it is ready"


def test_a_database_whose_connections_do_not_come_back_is_away() -> None:
    with pytest.raises(StoreUnavailable), store_answers():
        raise PoolTimeout


def test_no_problem_names_an_address_inside() -> None:
    for inside in (StackUnreachable("no answer at db.internal:5432"), WrongDeployment("db.internal:5432 is not ours")):
        assert "internal" not in describe(inside).model_dump_json()
    of_a_claim = describe(StackUnreachable("claim c1 is not decided", {"claim_id": "c1"}))
    assert of_a_claim.detail == "claim c1 is not decided"


def test_only_an_address_in_use_becomes_a_listen_error() -> None:
    with bound_socket("127.0.0.1", 0) as sock:
        sock.listen()
        with pytest.raises(StackUnreachable, match="cannot listen"), bound_socket(*sock.getsockname()):
            pass
    with pytest.raises(OSError, match="of the block"), bound_socket("127.0.0.1", 0):
        raise OSError("of the block")


def test_how_long_an_answer_is_held_is_bounded() -> None:
    heard = {text: wait_of(text) for text in ("wait=10", "respond-async, wait=5", "wait=900", "wait=x", "await=9", "")}
    assert heard == {"wait=10": 10, "respond-async, wait=5": 5, "wait=900": 60, "wait=x": 0, "await=9": 0, "": 0}
    assert wait_of(None) == 0
