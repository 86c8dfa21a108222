"""Claim ids: which ones are accepted, and how many claims one transaction takes."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from prebuilds.api import InvalidInput
from prebuilds.vocabulary.plain_text import check_plain

CLAIM_ID_BYTES_MAX = 200
CLAIMS_MAX = 500
"""Claims in one transaction at most; 500 take about half a second."""


def _check_claim_id(value: str) -> str:
    if not check_plain(value) or len(value.encode()) > CLAIM_ID_BYTES_MAX:
        raise ValueError(f"must be 1 to {CLAIM_ID_BYTES_MAX} bytes of text")
    return value


ClaimId = Annotated[str, AfterValidator(_check_claim_id)]


def parse_claim_id(claim_id: str, *, members: int = 0) -> str:
    """Check a claim id that comes from a caller or from a workflow's id, and return it.

    Args:
        members: The number of claims in a batch, whose ids `{claim_id}/{n}` must fit, too; 0 for a single claim.
    Raises:
        InvalidInput: The id is empty or too long, or has characters that cannot be stored or that act on a terminal.
    """
    longest = CLAIM_ID_BYTES_MAX - (len(f"/{members - 1}") if members else 0)
    try:
        check_plain(claim_id)
    except ValueError as error:
        raise InvalidInput.field("claim_id", str(error)) from error
    if not 0 < len(claim_id.encode()) <= longest:
        raise InvalidInput.field("claim_id", f"must be 1 to {longest} bytes of text")
    return claim_id
