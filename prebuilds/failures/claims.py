"""Names the claim in errors that leave its caller without an answer: only the id leads to what the claim has won."""

from __future__ import annotations

from prebuilds.api import RequestFailed, StackUnreachable, StoreUnavailable
from prebuilds.vocabulary.error import PrebuildsError

RUN_DOCTOR = "see what is away with `prebuilds doctor`"


def name_unanswered_claim(
    error: StackUnreachable | RequestFailed, claim_id: str, *, given_up: bool
) -> StackUnreachable | RequestFailed:
    """Make the error of a claim whose answer was lost.

    Args:
        given_up: Whether it is certain that nothing is left of the claim. Otherwise the remedy is to use its id again.
    """
    known = {"claim_id": claim_id}
    remedy = f"{error.advice or RUN_DOCTOR}, then {advise_retry(given_up=given_up)}"
    message = f"claim {claim_id}: {error.message}"
    return type(error)(message, {**error.details, **known}, remedy=remedy, inputs={} if given_up else known)


def name_claim(error: PrebuildsError, claim_id: str) -> PrebuildsError:
    """Make the error of a claim that was answered by this error, with the id by which its record is found."""
    known = {"claim_id": claim_id}
    inputs = known if isinstance(error, StoreUnavailable) else {}  # only its remedy is to use the id again
    message = f"claim {claim_id}: {error.message}"
    return type(error)(message, {**error.details, **known}, remedy=error.advice, inputs=inputs)


def advise_retry(*, given_up: bool) -> str:
    """Say how to claim again. With the same id, a claim that goes on returns its answer."""
    return "claim again" if given_up else "claim again with the same id"
