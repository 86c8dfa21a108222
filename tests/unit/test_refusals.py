"""A refusal names the typed options; as JSON it names the fields that every client has."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any, cast

import pytest
from temporalio.api.failure.v1 import Failure
from temporalio.exceptions import ApplicationError

from prebuilds.api import (
    ClaimTimedOut,
    InvalidInput,
    NameTaken,
    NoClaimablePrebuiltWorkspaces,
    PrebuildsError,
    PrebuiltWorkspacesNotSupported,
    StoreUnavailable,
)
from prebuilds.cli import claims, run
from prebuilds.cli.refusals import in_options
from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimRequest
from prebuilds.temporal.converter import data_converter
from prebuilds.temporal.typed_errors import application_error
from workflows.refusal import refused_claim

CLAIM = ("claim", "--preset", "acme/python/small", "--owner", "alice", "--name", "dev")
UNSENT = [
    (
        ("--timeout", "5m"),
        "--timeout: is for claims that wait; let the claim wait, or leave this out (--on-empty wait)",
        "wait_timeout_seconds",
    ),
    (
        ("--timeout", "1m"),
        "--timeout: is for claims that wait; let the claim wait, or leave this out (--on-empty wait)",
        "wait_timeout_seconds",
    ),
    (
        ("--timeout", "5m", "--on-empty", "create"),
        "--timeout: is for claims that wait; let the claim wait, or leave this out (--on-empty wait)",
        "wait_timeout_seconds",
    ),
    (
        ("--on-timeout", "fail"),
        "--on-timeout: is for claims that wait; let the claim wait, or leave this out (--on-empty wait)",
        "on_timeout",
    ),
    (
        ("--on-timeout", "create"),
        "--on-timeout: is for claims that wait; let the claim wait, or leave this out (--on-empty wait)",
        "on_timeout",
    ),
    (("--timeout", "0s", "--on-empty", "wait"), "--timeout: must be", "wait_timeout_seconds"),
    (("--timeout", "soon"), "--timeout: must be", "timeout"),
    (("--ttl", "-5m"), "--ttl: must be", "ttl"),
    (("--lease", "5s"), "--lease: must be between 60 and 2592000 seconds (1m to 30d)", "lease_seconds"),
    (("--next-start", "tomorrow"), "--next-start: ", "next_start_at"),
    (("--on-empty", "maybe"), "--on-empty: must be", "on_empty"),
    (("--param", "size"), "--param: number 1 must be written k=v", "parameters"),
    (("--claim-param", "=x"), "--claim-param: number 1 must be written k=v", "claim_parameters"),
    (("--autostart", "\udcff"), "--autostart: must be", "autostart_schedule"),
]


class Deaf(PrebuildsClient):
    """Takes a claim, and sends nothing."""

    async def claim_request(self, request: ClaimRequest, claim_id: str, *, abandon: bool = False) -> Any:
        self.request = request
        raise ClaimTimedOut("late", {"claim_id": claim_id}, remedy="create one", inputs={"on_timeout": "create"})


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Deaf:
    deaf = Deaf(cast("Any", None))

    monkeypatch.setattr(claims, "claims", lambda: nullcontext(deaf))
    return deaf


@pytest.mark.parametrize(("typed", "message", "field"), UNSENT, ids=[ascii(" ".join(case[0])) for case in UNSENT])
def test_a_bad_claim_is_refused_by_option_before_it_is_sent(
    client: Deaf, capsys: pytest.CaptureFixture[str], typed: tuple[str, ...], message: str, field: str
) -> None:
    assert run([*CLAIM, *typed]) == 1
    output = capsys.readouterr()
    assert (output.out, output.err.startswith("error: InvalidInput: ")) == ("", True)
    assert message in output.err
    assert run(["--json", *CLAIM, *typed]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert list(error["details"]) == [field]
    assert error["message"].removeprefix("claim is not valid: ").startswith(f"{field}: "), "as every client has it"


@pytest.mark.parametrize(
    ("typed", "seconds", "on_timeout"),
    [
        ((), 300, "fail"),
        (("--timeout", "5m"), 300, "fail"),
        (("--timeout", "1m", "--on-timeout", "create"), 60, "create"),
    ],
)
def test_a_waiting_claim_sends_its_wait_timeout(
    client: Deaf, capsys: pytest.CaptureFixture[str], typed: tuple[str, ...], seconds: float, on_timeout: str
) -> None:
    assert run([*CLAIM, "--on-empty", "wait", *typed]) == 1
    assert (client.request.wait_timeout_seconds, client.request.on_timeout) == (seconds, on_timeout)
    assert capsys.readouterr().err == "error: ClaimTimedOut: late; create one (--on-timeout create)\n"


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (CLAIM, InvalidInput.field("autostart_schedule", "no"), "--autostart: no"),
        (CLAIM, InvalidInput.field("next_start_at", "no", "give one", inputs={"autostart_schedule": ""}),
         "--next-start: no; give one (--autostart)"),
        (CLAIM, InvalidInput.field("preset", "no path"), "--preset: no path"),
        (CLAIM, InvalidInput.field("claim_parameters.token", "is none"), "--claim-param token: is none"),
        (CLAIM, InvalidInput.field("claim_parameters.on_timeout", "is no parameter of acme/on_empty"),
         "--claim-param on_timeout: is no parameter of acme/on_empty"),
        (CLAIM, InvalidInput.fields({"parameters": "no", "claim_parameters": "no"}),
         "--param: no; --claim-param: no"),
        (("provisioners", "check", "x"), InvalidInput.field("source.comand", "no"), "source.comand: no"),
        (CLAIM, InvalidInput.fields({"on_empty": "no", "owner": "no"}, "claim"), "--on-empty: no; --owner: no"),
        (CLAIM, PrebuiltWorkspacesNotSupported("off", remedy="create one", inputs={"on_empty": "create"}),
         "off; create one (--on-empty create)"),
        (CLAIM, NameTaken("alice has a live workspace named on_empty: dev", {"name": "is taken"}, remedy="choose"),
         "alice has a live workspace named on_empty: dev; choose"),
        (("workspaces", "set", "a/b", "--autostart", "x"), InvalidInput.field("autostart_schedule", "no"),
         "--autostart: no"),
        (("jobs", "list", "--status", "x"), InvalidInput.field("status.0", "no"), "--status: no"),
        (("explain", "claim", "x"), InvalidInput.field("claim_id", "no"), "claim_id: no"),
        (("presets", "invalidate", "x"), InvalidInput.field("preset", "no"), "preset: no"),
        (("apply", "-f", "x"), InvalidInput.field("organizations.0.name", "no"), "organizations.0.name: no"),
        (("apply", "--file", "x"), InvalidInput.field("on_empty", "no"), "on_empty: no"),
    ],
)  # fmt: skip
def test_a_field_is_named_by_its_option_when_there_is_one(
    words: tuple[str, ...], error: PrebuildsError, message: str
) -> None:
    assert in_options(words, error) == message


async def test_a_refusal_has_no_stack_and_a_failure_has_one() -> None:
    refused = await _failure_of(NameTaken("alice has a live workspace named dev"))
    assert (refused.stack_trace, refused.HasField("cause")) == ("", False)
    assert refused.application_failure_info.type == "NameTaken"
    ended = await _failure_of(refused_claim(ApplicationError("away", type="StoreUnavailable"), "c1"))
    assert (ended.stack_trace, ended.HasField("cause")) == ("", False), "nobody repeats it: it is the caller's answer"
    failed = await _failure_of(StoreUnavailable("the database does not answer"))
    assert __file__ in failed.stack_trace
    assert failed.HasField("cause")


async def _failure_of(error: BaseException) -> Failure:
    """Return the failure that a history keeps of a chained error."""
    failure = Failure()
    try:
        try:
            raise OSError("its cause")
        except OSError as cause:
            raise application_error(error) if isinstance(error, PrebuildsError) else error from cause
    except Exception as raised:
        await data_converter.encode_failure(raised, failure)
    return failure


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (NoClaimablePrebuiltWorkspaces("none; try again", {"miss_reason": "empty"}), True),
        (NoClaimablePrebuiltWorkspaces("none; claim with on_empty create", {"miss_reason": "no_pool"}), False),
        (ClaimTimedOut("late; try again"), True),
        (NameTaken("taken"), False),
    ],
)
def test_an_outcome_says_whether_asking_again_can_help_and_temporal_never_does(
    error: PrebuildsError, retryable: bool
) -> None:
    assert error.retryable is retryable
    assert application_error(error).non_retryable


def test_without_the_database_a_claims_outcome_is_not_known() -> None:
    failure = refused_claim(ApplicationError("the database does not answer", type="StoreUnavailable"), "c1")
    assert isinstance(failure, ApplicationError)
    assert (failure.type, failure.details[0], failure.non_retryable) == ("StoreUnavailable", {"claim_id": "c1"}, True)
    assert failure.message.startswith("whether the claim has won a workspace is not known"), "the client adds the id"
    refusal = refused_claim(ApplicationError("taken", type="NameTaken"), "c1")
    assert isinstance(refusal, ApplicationError)
    assert refusal.message == "taken"
