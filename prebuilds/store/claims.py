"""One person's claim, on asyncpg itself: SQLAlchemy would cost five times the throughput here.

The statement is a database function, since a claim is several steps of which each depends on the one before, and one
round trip is what a claim can afford (decision 0004).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

import asyncpg

from prebuilds.api import (
    ClaimIdReused,
    InitiatorNotFound,
    InvalidInput,
    NameTaken,
    NotAMember,
    OwnerNotFound,
    PrebuildsError,
    PrebuiltWorkspacesNotSupported,
    PresetNotFound,
    TemplateNotFound,
    TemplateUnavailable,
)
from prebuilds.payloads import NAMESPACE, ClaimRequest, ClaimResult, MissReason, build_id_of
from prebuilds.planning.choose import PresetOffer
from prebuilds.store.engine import CONNECTION_LOST, store_unavailable

CLAIM = """
    SELECT answer, fresh, organization, template, preset
      FROM claim_workspace_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
"""

OFFERS = """
    SELECT p.id, p.name, p.is_default, p.desired_instances IS NOT NULL AS has_pool, p.claim_parameters,
           coalesce((SELECT jsonb_object_agg(x.name, x.value) FROM preset_parameters x WHERE x.preset_id = p.id), '{}')
               AS parameters
      FROM organizations o
      JOIN templates t ON t.organization_id = o.id AND t.name = $2 AND t.deleted_at IS NULL
      JOIN presets p ON p.template_version_id = t.active_version_id
     WHERE o.name = $1
"""
OFFER_BY_ID = """
    SELECT p.id, p.name, p.is_default, p.desired_instances IS NOT NULL AS has_pool, p.claim_parameters,
           coalesce((SELECT jsonb_object_agg(x.name, x.value) FROM preset_parameters x WHERE x.preset_id = p.id), '{}')
               AS parameters
      FROM presets p WHERE p.id = $1
"""
TEMPLATE_EXISTS = """
    SELECT EXISTS (SELECT FROM templates t JOIN organizations o ON o.id = t.organization_id
                    WHERE o.name = $1 AND t.name = $2 AND t.deleted_at IS NULL)
"""

REFUSED = "PB001"
"""The SQLSTATE of a refusal; its message is the error's type."""
NAME_KEY = "workspaces_live_name_key"


@dataclass(frozen=True, slots=True)
class ClaimTarget:
    """Which preset is claimed: an id, or a path of active version. `label` is for messages."""

    label: str
    preset_id: UUID | None = None
    path: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """What the claim's transaction decided."""

    result: ClaimResult | None
    """None: nothing was ready."""
    miss_reason: MissReason | None
    preset_id: UUID
    fresh: bool
    """False: an earlier attempt had decided; this is its answer again."""
    labels: dict[str, str]


def request_hash(request: ClaimRequest) -> bytes:
    """Of what was asked, so that another request under a used claim id is noticed."""
    return hashlib.sha256(request.model_dump_json().encode()).digest()


class ClaimStore:
    def __init__(self, pool: asyncpg.Pool[Any], *, enabled: bool) -> None:
        self._pool = pool
        self._enabled = enabled

    async def offers(self, target: ClaimTarget | None, template: Sequence[str] | None) -> list[PresetOffer]:
        """The presets that a claim may choose from, with their parameters; empty when there is no such thing."""
        try:
            if template is not None:
                rows = await self._pool.fetch(OFFERS, *template)
            elif target is not None and target.preset_id is not None:
                rows = await self._pool.fetch(OFFER_BY_ID, target.preset_id)
            elif target is not None and target.path is not None:
                organization, template_name, preset = target.path
                rows = [r for r in await self._pool.fetch(OFFERS, organization, template_name) if r["name"] == preset]
            else:
                return []
        except CONNECTION_LOST as error:
            raise store_unavailable(error) from error
        return [
            PresetOffer(
                id=row["id"],
                name=row["name"],
                is_default=row["is_default"],
                has_pool=row["has_pool"],
                parameters=json.loads(row["parameters"]),
                claim_parameters=frozenset(row["claim_parameters"]),
            )
            for row in rows
        ]

    async def template_exists(self, organization: str, template: str) -> bool:
        return bool(await self._pool.fetchval(TEMPLATE_EXISTS, organization, template))

    async def claim(self, claim_id: str, request: ClaimRequest, target: ClaimTarget, asked: bytes) -> Claimed:
        """Decide a claim in one transaction and one round trip. The same claim id again gets the same answer.

        Args:
            asked: `request_hash` of the request as it came, before anything was computed for it.
        Raises:
            PrebuildsError: One of the contract's refusals; nothing was written.
            StoreUnavailable: The database is away; whether the claim was decided is known to its next attempt.
        """
        workspace_id = uuid5(NAMESPACE, f"claim/{claim_id}")
        organization, template, preset = target.path or (None, None, None)
        ttl = None if request.ttl_seconds is None else timedelta(seconds=request.ttl_seconds)
        try:
            row = await self._pool.fetchrow(
                CLAIM,
                claim_id,
                asked,
                target.preset_id,
                organization,
                template,
                preset,
                request.owner,
                request.asked_by,
                request.name,
                request.autostart_schedule,
                request.next_start_at,
                ttl,
                json.dumps(request.claim_parameters),
                request.on_empty.value,
                self._enabled,
                workspace_id,
                build_id_of(workspace_id, 1),
            )
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name == NAME_KEY:
                raise NameTaken(
                    f"{request.owner} has a live workspace named {request.name}; choose another name or release it",
                    {"name": "is taken"},
                ) from error
            raise
        except CONNECTION_LOST as error:
            raise store_unavailable(error) from error
        except asyncpg.PostgresError as error:
            if error.sqlstate == REFUSED:
                raise _refusal(str(error), request, target, claim_id) from error
            raise
        assert row is not None  # noqa: S101 - a function returns one row
        answer: dict[str, Any] = json.loads(row["answer"])
        won = answer["source"] is not None
        return Claimed(
            result=ClaimResult.model_validate(answer) if won else None,
            miss_reason=MissReason(answer["miss_reason"]) if answer["miss_reason"] else None,
            preset_id=UUID(answer["preset_id"]),
            fresh=row["fresh"],
            labels={
                "organization_name": row["organization"] or "",
                "template_name": row["template"] or "",
                "preset_name": row["preset"] or "",
            },
        )


def _refusal(kind: str, request: ClaimRequest, target: ClaimTarget, claim_id: str) -> PrebuildsError:
    refusals: dict[str, PrebuildsError] = {
        "ClaimIdReused": ClaimIdReused(
            f"claim id {claim_id} has won a workspace with a different request; use a new id", {"claim_id": claim_id}
        ),
        "OwnerNotFound": OwnerNotFound(
            f"owner {request.owner} is not known; add them to an organization's members", {"owner": "is not known"}
        ),
        "InitiatorNotFound": InitiatorNotFound(
            f"initiator {request.asked_by} is not known; add them to an organization's members",
            {"initiator": "is not known"},
        ),
        "PresetNotFound": PresetNotFound(
            f"no preset {target.label} on an active template version; see `prebuilds status`",
            {"preset": "does not exist"},
        ),
        "TemplateNotFound": TemplateNotFound(
            f"the template of preset {target.label} was deleted", {"template": "was deleted"}
        ),
        "TemplateUnavailable": TemplateUnavailable(
            f"the template of preset {target.label} is deprecated, or the preset is not of its active version; "
            "claim organization/template/preset to get the active one",
            {"preset": "is not available"},
        ),
        "NotAMember": NotAMember(
            f"owner {request.owner} is not a member of the organization of {target.label}",
            {"owner": "is not a member of the organization"},
        ),
        "PrebuiltWorkspacesNotSupported": PrebuiltWorkspacesNotSupported(
            f"prebuilds are switched off for {target.label}; claim with on_empty create to get an ordinary workspace"
        ),
    }
    return refusals.get(kind) or InvalidInput(f"the claim was refused: {kind}")
