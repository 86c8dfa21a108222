"""The bodies of requests and answers that are the server's own. The others are those of `prebuilds/payloads/`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from prebuilds.http.problems import Problem
from prebuilds.payloads import ClaimRequest, ClaimResult, ClaimsRequest, ClaimsResult
from prebuilds.vocabulary import Timestamp


def _kind(body: Any) -> str:
    return "many" if isinstance(body, dict) and "names" in body else "one"


ClaimBody = Annotated[
    Annotated[ClaimRequest, Tag("one")] | Annotated[ClaimsRequest, Tag("many")],
    Discriminator(_kind),
]
"""A claim; with `names` in place of `name`, many claims that are won together or not at all."""

CLAIM_EXAMPLES: dict[str, Any] = {
    "one": {
        "summary": "A workspace from a pool",
        "value": {"preset": "acme/python/small", "owner": "alice", "name": "alice-dev", "ttl_seconds": 28800},
    },
    "wait": {
        "summary": "Wait up to five minutes where the pool is empty",
        "value": {"preset": "acme/python/small", "owner": "alice", "name": "alice-dev", "on_empty": "wait"},
    },
    "many": {
        "summary": "Several at once, all or nothing",
        "value": {"preset": "acme/python/small", "owner": "alice", "names": ["room-1", "room-2"]},
    },
}
RESULT_EXAMPLE: dict[str, Any] = {
    "claim_id": "ticket-17",
    "workspace_id": "0b8ad3a2-91a6-4f49-9cb4-5a9fdd3f43ab",
    "name": "alice-dev",
    "owner": "alice",
    "initiator": "alice",
    "preset_id": "7b1de5d1-5e0b-5d52-9f0c-8f4f5d1d8a61",
    "source": "prebuilt",
    "miss_reason": None,
    "build_id": "3d0a4c0e-1b0d-5f26-8d3b-1f6f7c1a2b3c",
    "claimed_at": "2026-03-02T09:14:00Z",
    "address": "http://127.0.0.1:40123",
}
State = Literal["deciding", "waiting", "claimed", "failed"]


class WaitingClaim(BaseModel):
    """A claim that waits for a prebuild."""

    claim_id: str = Field(examples=["ticket-17"])
    state: Literal["deciding", "waiting"] = Field(
        description="`deciding`: no worker has looked at it yet", examples=["waiting"]
    )
    position: int | None = Field(
        description="Its place in the queue, from 1; null until it is in the queue", examples=[2]
    )
    deadline: Timestamp | None = Field(description="When it stops waiting", examples=["2026-03-02T09:19:00Z"])
    estimated_seconds: float | None = Field(
        description="How long until it has a workspace, from what is being made and how long that took before; null "
        "where nothing is known",
        examples=[12.5],
    )


class ClaimState(BaseModel):
    """What has become of a claim."""

    claim_id: str = Field(examples=["ticket-17"])
    state: State = Field(examples=["claimed"])
    position: int | None = Field(default=None, description="As of a waiting claim")
    deadline: Timestamp | None = Field(default=None, description="As of a waiting claim")
    estimated_seconds: float | None = Field(default=None, description="As of a waiting claim")
    claim: ClaimResult | ClaimsResult | None = Field(
        default=None, description="What it has won", examples=[RESULT_EXAMPLE]
    )
    error: Problem | None = Field(default=None, description="Why it got nothing; asked again, it may win")


class Health(BaseModel):
    """How the server is."""

    status: Literal["ok", "draining", "database_away"] = Field(examples=["ok"])
