"""A claim always ends: during a database outage its caller gets an error in time, and the claim wins nothing later."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.away import BATCHES, CLAIMS, REQUESTS, Seen, try_all
from tests.faults.databases import FAULTS

LONGEST_S = 30.0
"""A claim ends within 16 s on a machine that does nothing else; this one runs other tests at the same time."""
WORDS = {
    "stopped": "does not answer",
    "frozen": "not answer",  # a claim that had no connection yet is told that it does not, others that it did not
    "read-only": "is read-only",
    "standby": "is read-only",
}
"""What the callers of a claim are told of the database, of some faults."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    return asyncio.run(try_all(tmp_path_factory.mktemp("away")))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_claim_ends_in_time_and_none_is_won_later(seen: dict[str, Seen], fault: str) -> None:
    observed = seen[fault]
    for claims, number in ((observed.claims, CLAIMS[fault]), (observed.batches, BATCHES)):
        assert [one.kind for one in claims] == ["StoreUnavailable"] * number
        assert all(10 <= one.after_s <= LONGEST_S for one in claims), claims
        assert all(WORDS.get(fault, "the database") in one.message for one in claims), claims
    assert [one.kind for one in observed.requests] == ["503 StoreUnavailable"] * REQUESTS
    assert all(one.after_s <= LONGEST_S for one in observed.requests), observed.requests
    assert observed.given_after == observed.given_before
    assert observed.repeated_claim == "given"
