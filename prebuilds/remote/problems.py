"""Converts what a server answers to the typed errors that its operations raised."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from prebuilds.api import ERRORS, InvalidInput, RequestFailed, StackUnreachable, Unauthenticated
from prebuilds.vocabulary.error import PrebuildsError

SET_URL = "see that PREBUILDS_URL is the address of a Prebuilds server, with its path if it has one, without /v1"
SET_TOKEN = "set PREBUILDS_TOKEN; an administrator makes a token with `prebuilds tokens create`"  # noqa: S105
OVERLOADED = frozenset({"Overloaded", "ServiceUnavailable"})
"""Codes of a server that has too much to do. They are no types of errors, and pass."""
OF_THE_SERVER: Mapping[str, str] = {
    "InternalError": "read the server's log",
    "NotFound": f"have the server upgraded, which does not know this request, or {SET_URL}",
    "MethodNotAllowed": f"have the server upgraded, which does not know this request, or {SET_URL}",
}
"""Other codes that are no types of errors -> the remedy."""


class UnknownError(PrebuildsError):
    """An error of a type that this release does not know, from a newer server. Its `type` is what the server said."""

    default_remedy = "have this client upgraded, whose server has a newer release"
    code: str | None = None

    @property
    def type(self) -> str:
        return self.code or super().type


def error_of_problem(problem: Mapping[str, Any]) -> PrebuildsError:
    """Convert a problem (RFC 9457) to the error that it describes.

    Its details are those of the error. A miss that waiting can heal has `retry_after_seconds` beside them, as only a
    server knows it.
    """
    code, message = str(problem.get("code", "")), str(problem.get("detail", ""))
    details = dict(problem.get("details") or {}) | dict(problem.get("errors") or {})
    if (again_s := problem.get("retry_after_seconds")) is not None and code == "NoClaimablePrebuiltWorkspaces":
        details.setdefault("retry_after_seconds", again_s)
    remedy, inputs = problem.get("remedy"), problem.get("inputs") or {}
    error = ERRORS.get(code, UnknownError)(message, details, inputs=inputs)
    if isinstance(error, UnknownError):
        error.code = code
    general = (remedy or "").removesuffix(error.remedy.removeprefix(error.general_remedy))
    if general and general != error.general_remedy:
        error.advice = general
    return error


def read_problem(content_type: str, body: bytes) -> Mapping[str, Any] | None:
    """Read the body of an answer as a problem; None when it has another form, for example a proxy's answer."""
    if "json" not in content_type:
        return None
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("code"), str) else None


def error_of_answer(url: str, status: int, reason: str, problem: Mapping[str, Any] | None) -> PrebuildsError:
    """Convert an unsuccessful answer to an error.

    Args:
        url: The server's address, for the message.
        reason: The status in words.
        problem: None when the answer was no problem of ours.
    """
    message = f"the server at {url} answers {status} {reason}"
    if problem is None:
        away = "it sends callers elsewhere, which is not followed" if 300 <= status < 400 else "not as Prebuilds does"
        return StackUnreachable(f"{message}: {away}", remedy=SET_URL)
    code, detail = problem["code"], problem.get("detail")
    if status == 413:
        return InvalidInput.field("body", f"is too long: {detail}", "make the request smaller")
    if code in OVERLOADED:
        return StackUnreachable(f"{message}: {detail}", remedy="try again in a moment")
    if (remedy := OF_THE_SERVER.get(code)) is not None:
        return RequestFailed(f"{message}: {detail}", remedy=remedy)
    return error_of_problem(problem)


def without_token(error: PrebuildsError) -> PrebuildsError:
    """Say of a refusal of a caller who has sent no token how to send one."""
    if isinstance(error, Unauthenticated):
        error.advice = SET_TOKEN
    return error
