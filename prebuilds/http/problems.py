"""Errors as RFC 9457 problems: the one place where an error gets its status."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request

from prebuilds.api import InvalidInput, LimitExceeded, NoClaimablePrebuiltWorkspaces, PrebuildsError, RateLimited
from prebuilds.failures import as_typed
from prebuilds.payloads import plain_message

logger = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
AGAIN_S = 1.0
"""When to ask again for what should be back at any moment, such as the database, in seconds."""

STATUSES: Mapping[str, int] = {
    "InvalidInput": 422,
    "ClaimIdReused": 422,
    "OwnerNotFound": 422,
    "InitiatorNotFound": 422,
    "NoClaimablePrebuiltWorkspaces": 429,  # 409 where waiting cannot help: `WAITING_CANNOT_HELP`
    "ClaimTimedOut": 429,
    "RateLimited": 429,
    "LimitExceeded": 429,  # 409 where only a release makes room
    "Unauthenticated": 401,
    "Forbidden": 403,
    "PresetNotFound": 404,
    "DrillNotFound": 404,
    "TemplateNotFound": 404,
    "WorkspaceNotFound": 404,
    "ClaimNotFound": 404,
    "TokenNotFound": 404,
    "PrebuiltWorkspacesNotSupported": 409,
    "TemplateUnavailable": 409,
    "NotAMember": 409,
    "NameTaken": 409,
    "RequestCanceled": 409,
    "WorkspaceBuildFailed": 409,
    "OrchestratorNotRunning": 409,
    "ClaimWouldReplace": 409,
    "LoopRenewed": 503,
    "ProvisionerUnavailable": 503,
    "StoreUnavailable": 503,
    "StackUnreachable": 503,
    "DatabaseRestored": 503,
    "WrongDeployment": 503,
    "DiskFull": 503,
    "SystemFault": 503,
    "MigrationBlocked": 503,
    "RequestFailed": 500,
    "ProvisionFailed": 500,
    "WorkerKeepsFailing": 500,
    "SnapshotIsolationError": 500,
    "SupersededPass": 500,
}
"""The status of each error, by its type. A test finds an error that has none."""
RETRY_SOON = frozenset({"LoopRenewed", "ProvisionerUnavailable", "StoreUnavailable", "StackUnreachable"})
"""Errors whose cause is usually gone in seconds; the response says to retry after `AGAIN_S`."""
LATER_S = 60.0
RETRY_LATER = frozenset({"DatabaseRestored", "WrongDeployment", "DiskFull", "SystemFault"})
"""Errors whose cause an operator removes; the response says to retry after `LATER_S` seconds."""
OF_THE_INSIDE: Mapping[str, str] = {
    "StackUnreachable": "Temporal, its workers or the database do not answer",
    "WrongDeployment": "the database and Temporal of this server do not belong together",
}
"""The message for callers in place of one that may name internal addresses. The log has the original."""
WAITING_CANNOT_HELP = frozenset({"no_pool", "held", "paused"})
"""Miss reasons for which nothing becomes ready by itself, or not soon."""
OF_FIELDS = frozenset(
    {
        "InvalidInput",
        "NameTaken",
        "OwnerNotFound",
        "InitiatorNotFound",
        "NotAMember",
        "PresetNotFound",
        "TemplateNotFound",
        "TemplateUnavailable",
    }
)
"""Errors whose details say by field what is wrong."""
TAGS = frozenset({"one", "many"})
"""What pydantic puts into a field's path for the kind of a body."""


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(examples=["urn:prebuilds:problem:NameTaken"])
    title: str = Field(description="The status in words", examples=["Conflict"])
    status: int = Field(examples=[409])
    detail: str = Field(examples=["alice has a live workspace named dev"])
    code: str = Field(description="The error's type, as everywhere in Prebuilds", examples=["NameTaken"])
    errors: dict[str, str] = Field(description="What is wrong, by field", examples=[{"name": "is taken"}])
    remedy: str | None = Field(default=None, description="What to do", examples=["choose another name"])
    details: dict[str, Any] = Field(description="Facts for programs, such as `miss_reason` and `until`")
    inputs: dict[str, str] = Field(
        default_factory=dict, description="Fields of the request, and the values for them that the remedy suggests"
    )
    claim_id: str | None = Field(default=None, description="The claim that it is about. Ask again under this id.")
    retry_after_seconds: int | None = Field(default=None, description="As the header Retry-After")


class ProblemResponse(Response):
    media_type = PROBLEM_JSON


def status_of(error: PrebuildsError) -> int:
    """The status of an error; 500 for a type that this release does not know."""
    if isinstance(error, NoClaimablePrebuiltWorkspaces) and error.details.get("miss_reason") in WAITING_CANNOT_HELP:
        return 409
    if isinstance(error, LimitExceeded) and not error.retryable:
        return 409
    return STATUSES.get(error.type, 500)


def describe(
    error: PrebuildsError, *, claim_id: str | None = None, retry_after_s: float | None = None, **facts: Any
) -> Problem:
    """The problem that an error is.

    Args:
        claim_id: The claim that it is about. None for an error that is about no claim.
        retry_after_s: When asking again can help, in seconds; None where nothing is known of that.
        facts: More for the details.
    """
    status = status_of(error)
    if error.type in OF_THE_INSIDE and "claim_id" not in error.details:
        logger.warning("A request cannot be served", extra={"error": str(error)})
        error = type(error)(OF_THE_INSIDE[error.type])
    if retry_after_s is None and error.type in RETRY_SOON:
        retry_after_s = AGAIN_S
    if retry_after_s is None and error.type in RETRY_LATER:
        retry_after_s = LATER_S
    if isinstance(error, RateLimited | LimitExceeded):
        retry_after_s = error.details.get("retry_after_seconds")
    return Problem(
        type=f"urn:prebuilds:problem:{error.type}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=error.message,
        code=error.type,
        errors={k: str(v) for k, v in error.details.items()} if error.type in OF_FIELDS else {},
        remedy=error.remedy or None,
        inputs=error.inputs,
        details=json.loads(json.dumps(({} if error.type in OF_FIELDS else error.details) | facts, default=str)),
        claim_id=claim_id,
        retry_after_seconds=None if retry_after_s is None else max(1, math.ceil(retry_after_s)),
    )


def respond(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The response of a problem."""
    sent = dict(headers or {})
    if problem.retry_after_seconds is not None:
        sent["Retry-After"] = str(problem.retry_after_seconds)
    if problem.status == HTTPStatus.UNAUTHORIZED:
        sent["WWW-Authenticate"] = "Bearer"
    return ProblemResponse(problem.model_dump_json(), problem.status, headers=sent)


def plain_problem(status: int, code: str, detail: str, *, retry_after_s: int | None = None) -> Problem:
    """Return the problem for an HTTP error, such as an unknown path or method."""
    return Problem(
        type=f"urn:prebuilds:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        errors={},
        details={},
        retry_after_seconds=retry_after_s,
    )


async def on_error(request: Request, error: Exception) -> Response:
    """Answer an error of ours. One that has no status of its own is a fault, and logged."""
    assert isinstance(error, PrebuildsError)  # noqa: S101 - it is registered for these
    if status_of(error) == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("A request failed", exc_info=error)
    return respond(describe(error))


async def on_invalid(request: Request, error: Exception) -> Response:
    """Answer a body, a header or a query that does not fit, with its fields in a person's words."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - it is registered for these
    fields = {_field(item["loc"]): _message(item) for item in error.errors()}
    return respond(describe(InvalidInput.fields(fields, "request")))


async def on_refused(request: Request, error: Exception) -> Response:
    """Answer what the framework refuses: an unknown address, a method that an address does not have."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these
    if error.status_code == HTTPStatus.BAD_REQUEST:  # a body that cannot even be read
        return respond(describe(InvalidInput.field("body", "must be JSON in UTF-8")))
    code = HTTPStatus(error.status_code).phrase.replace(" ", "")
    return respond(plain_problem(error.status_code, code, error.detail), error.headers)


async def on_fault(request: Request, error: Exception) -> Response:
    """Answer what has no handler of its own: a server behind this one that is away, or a bug of ours, which is
    logged."""
    typed = as_typed(error)
    if typed is not None:
        return await on_error(request, typed)
    return respond(plain_problem(500, "InternalError", "the server has failed; its log says how"))


def _field(loc: tuple[Any, ...]) -> str:
    """A field's path as the caller knows it."""
    parts = [str(part) for n, part in enumerate(loc) if not (n == 1 and part in TAGS)]
    return ".".join(parts[1:]) if len(parts) > 1 and not str(parts[1]).isdigit() else "body"


def _message(item: Mapping[str, Any]) -> str:
    if item["type"] == "json_invalid":
        return "must be JSON"
    return plain_message(item["type"], item["msg"])
