"""Claim ids: which ones are accepted, and how many claims one transaction takes."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from prebuilds.api import InvalidInput
from prebuilds.vocabulary.plain_text import check_plain

CLAIM_ID_BYTES_MAX = 200
CLAIMS_MAX = 500
"""In one transaction: about half a second of it."""


def _check_claim_id(value: str) -> str:
    if not check_plain(value) or len(value.encode()) > CLAIM_ID_BYTES_MAX:
        raise ValueError(f"must be 1 to {CLAIM_ID_BYTES_MAX} bytes of text")
    return value


ClaimId = Annotated[str, AfterValidator(_check_claim_id)]


def parse_claim_id(claim_id: str, *, members: int = 0) -> str:
    """A claim's id, as it comes from a caller or in a workflow's id.

    Args:
        members: Of a batch: so many claims have ids of their own, made from this one.
    Raises:
        InvalidInput: It cannot be stored, or would act where it is shown.
    """
    longest = CLAIM_ID_BYTES_MAX - (len(f"/{members - 1}") if members else 0)
    try:
        check_plain(claim_id)
    except ValueError as error:
        raise InvalidInput.field("claim_id", str(error)) from error
    if not 0 < len(claim_id.encode()) <= longest:
        raise InvalidInput.field("claim_id", f"must be 1 to {longest} bytes of text")
    return claim_id
