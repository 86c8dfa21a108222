"""Reads the states of claims for their callers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import PrebuildsError, StackUnreachable
from prebuilds.payloads import ClaimRequest, ClaimResult
from prebuilds.store.claim_refusals import ClaimTarget, refusal, reused, transferred
from prebuilds.store.claim_runs import recorded_refusal
from prebuilds.vocabulary import MissReason

READ_CLAIMS = text("""
    SELECT c.id, c.answer, c.workspace_id, c.run, c.run_answered, c.transferred_at,
           coalesce(q.request_hash, c.request_hash) AS request_hash,
           q.claim_id IS NOT NULL AS queued, q.deadline, q.deadline <= now() AS late, q.decided_at, q.refusal,
           q.workflow_id, q.request, c.owner, c.initiator, c.target,
           o.name || '/' || t.name || '/' || q.preset_name AS preset,
           greatest(c.completed_at, c.created_at, q.deadline) < now() - CAST(:decided_within AS interval) AS overdue,
           (SELECT count(*) + 1 FROM claim_queue a
             WHERE a.template_id = q.template_id AND a.preset_name = q.preset_name
               AND a.decided_at IS NULL AND a.position < q.position) AS position
      FROM claims c LEFT JOIN claim_queue q ON q.claim_id = c.id
      LEFT JOIN templates t ON t.id = q.template_id LEFT JOIN organizations o ON o.id = t.organization_id
     WHERE c.id = ANY(CAST(:ids AS text[]))
""")
READ_BATCH = text("""
    SELECT id, answer, request_hash, transferred_at FROM claims
     WHERE id = ANY(CAST(:ids AS text[])) AND workspace_id IS NOT NULL
""")


DECIDED_WITHIN = timedelta(seconds=60)
"""A claim that a workflow goes on with stands in the queue, or has its answer, within seconds. After this time that
workflow is taken to be gone, or never to have begun: the process that was to start it has died."""


@dataclass(frozen=True, slots=True)
class ClaimFound:
    """What is recorded of one claim."""

    claim_id: str
    run: str
    """The run that the claim worked for last."""
    won: ClaimResult | None = None
    failed: PrebuildsError | None = None
    """How its last run was refused; None unless it was."""
    missed: MissReason | None = None
    """Why its last run found nothing ready; None unless it did."""
    preset_id: str | None = None
    """The preset that it missed; None unless it did."""
    position: int | None = None
    """Its place in the queue, from 1; None unless it waits."""
    deadline: datetime | None = None
    workflow_id: str | None = None
    """The workflow that waits; None unless it waits."""
    preset: str | None = None
    """The path of the preset that it waits for; None unless it waits."""
    owner: str | None = None
    initiator: str | None = None
    """The claim's people, by name; for a claim that has won nothing, by the keys of their names."""
    target: str | None = None
    """The requested preset, by path or id, or the requested template; for a claim that has won, the preset's id."""
    request_hash: bytes = b""
    """The hash of the request that has won or waits; if none has or does, of the one that was decided last."""

    @property
    def ended(self) -> bool:
        """Whether its last run has its answer."""
        return self.won is not None or self.failed is not None or self.missed is not None

    def check_request(self, request_hash: bytes) -> None:
        """Refuse to tell one request what became of another one under the same id.

        Raises:
            ClaimIdReused: The id has won, or waits, with another request.
        """
        if self.request_hash != request_hash and (self.won is not None or self.position is not None):
            raise reused(self.claim_id)

    def same_as(self, other: ClaimFound | None) -> bool:
        """Whether both say the same. Of two refusals, the type counts: an error is equal to itself alone."""
        if other is None:
            return False
        ours, theirs = (replace(found, failed=None) for found in (self, other))
        return ours == theirs and type(self.failed) is type(other.failed)


async def read_claims(engine: AsyncEngine, claim_ids: Collection[str]) -> dict[str, ClaimFound]:
    """What is recorded of each of these claims; without those of which nothing is."""
    async with engine.connect() as connection:
        rows = await connection.execute(READ_CLAIMS, {"ids": list(claim_ids), "decided_within": DECIDED_WITHIN})
        return {row.id: _found(row) for row in rows}


async def read_batch(engine: AsyncEngine, claim_ids: Sequence[str]) -> list[ClaimResult]:
    """Return what a batch has won, in the order of *claim_ids*, without workspaces transferred since.

    Args:
        claim_ids: The ids that members of a batch have. Other requests may have used the later ones.
    """
    async with engine.connect() as connection:
        found = {row.id: row for row in await connection.execute(READ_BATCH, {"ids": list(claim_ids)})}
    members = [found[id] for id in takewhile(found.__contains__, claim_ids)]
    of_one_request = takewhile(lambda row: row.request_hash == members[0].request_hash, members)
    return [ClaimResult.model_validate(row.answer) for row in of_one_request if row.transferred_at is None]


def _found(row: Any) -> ClaimFound:
    answer: Mapping[str, Any] = row.answer or {}
    parties = {"owner": row.owner, "initiator": row.initiator, "target": row.target, "request_hash": row.request_hash}
    found = ClaimFound(row.id, row.run, **parties)
    if row.workspace_id is not None:
        won = ClaimResult.model_validate(answer)
        found = replace(found, owner=won.owner, initiator=won.initiator, target=str(won.preset_id or ""))
        if row.transferred_at is not None:
            return replace(found, failed=transferred(row.id))
        return replace(found, won=won)
    if row.queued and row.refusal is not None:
        request = ClaimRequest.model_validate(row.request)
        return replace(found, failed=refusal(row.refusal, request, ClaimTarget(row.preset), row.id))
    if row.queued and row.decided_at is None and not row.late:
        place = {"position": row.position, "deadline": row.deadline, "preset": row.preset}
        return replace(found, workflow_id=row.workflow_id, **place)
    if row.run_answered:
        return _denied(found, answer)
    return replace(found, failed=_undecided(row.id) if row.overdue else None)


def _undecided(claim_id: str) -> StackUnreachable:
    return StackUnreachable(
        f"no worker has decided claim {claim_id} in {DECIDED_WITHIN.total_seconds():g} s",
        {"claim_id": claim_id},
        remedy="ask again with the same id",
    )


def _denied(found: ClaimFound, answer: Mapping[str, Any]) -> ClaimFound:
    if refused := recorded_refusal(dict(answer)):
        return replace(found, failed=refused)
    return replace(found, missed=MissReason(answer["miss_reason"]), preset_id=answer["preset_id"])
