"""The protocols of `prebuilds/api.py`, implemented on Temporal and PostgreSQL.

The loop, the passes and the claims run as workflows in the deployment's workers; these objects are how another program
speaks to them through the protocols.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import Claimer, OwnerNotFound, PrebuiltWorkspacesNotSupported, ReconciliationOrchestrator
from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimRequest, Replacement, parse_input
from prebuilds.planning.autostart import next_start
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import GlobalSnapshot
from prebuilds.store.replacements import record_replacements
from prebuilds.store.snapshots import snapshot_state
from prebuilds.store.workspaces import user_name
from prebuilds.vocabulary import ORCHESTRATOR_ID


class TemporalSnapshotter:
    """A `StateSnapshotter` over the database."""

    def __init__(self, rules: Rules | None = None) -> None:
        """*rules* are the deployment's; None for the defaults."""
        self._rules = rules or Rules()

    async def snapshot_state(self, connection: AsyncConnection) -> GlobalSnapshot:
        return await snapshot_state(connection, self._rules)


class TemporalOrchestrator(TemporalSnapshotter):
    """A `ReconciliationOrchestrator`: the loop's workflow, seen from another program."""

    def __init__(self, client: PrebuildsClient, engine: AsyncEngine, rules: Rules | None = None) -> None:
        super().__init__(rules)
        self._client = client
        self._engine = engine

    async def reconcile_all(self) -> None:
        await self._client.reconcile()

    async def run(self) -> None:
        """Start the loop unless it runs, and return when it has ended."""
        await self._client.start()
        await self._client.temporal.get_workflow_handle(ORCHESTRATOR_ID).result()

    async def stop(self, cause: str) -> None:
        await self._client.stop(cause)

    async def track_resource_replacement(
        self, workspace_id: UUID, build_id: UUID, replacements: Sequence[Replacement]
    ) -> None:
        await record_replacements(self._engine, workspace_id, build_id, replacements)


class TemporalClaimer:
    """A `Claimer`: each call is one `ClaimWorkspace` workflow."""

    def __init__(self, client: PrebuildsClient, engine: AsyncEngine) -> None:
        self._client = client
        self._engine = engine

    async def claim(
        self,
        now: datetime,
        user_id: UUID,
        name: str,
        preset_id: UUID,
        autostart_schedule: str | None,
        next_start_at: datetime | None,
        ttl: timedelta | None,
    ) -> UUID:
        owner = await user_name(self._engine, user_id)
        if owner is None:
            raise OwnerNotFound(f"no user has the id {user_id}", {"user_id": "is not known"})
        if autostart_schedule is not None and next_start_at is None:
            next_start_at = next_start(autostart_schedule, now)
        request: dict[str, Any] = {
            "preset": str(preset_id),
            "owner": owner,
            "name": name,
            "autostart_schedule": autostart_schedule,
            "next_start_at": next_start_at,
            "ttl_seconds": None if ttl is None else ttl.total_seconds(),
        }
        asked = parse_input(ClaimRequest, request, "claim")
        result = await self._client.claim_request(asked, str(uuid4()), abandon=True)
        return result.workspace_id


class DisabledClaimer:
    """The `Claimer` of a deployment that has the feature switched off: it always says so."""

    async def claim(
        self,
        now: datetime,
        user_id: UUID,
        name: str,
        preset_id: UUID,
        autostart_schedule: str | None,
        next_start_at: datetime | None,
        ttl: timedelta | None,
    ) -> UUID:
        raise PrebuiltWorkspacesNotSupported(
            "prebuilds are switched off here", remedy="set PREBUILDS_ENABLED=true on the workers"
        )


# The type checker holds the classes to their protocols.
_orchestrator: type[ReconciliationOrchestrator] = TemporalOrchestrator
_claimers: tuple[type[Claimer], ...] = (TemporalClaimer, DisabledClaimer)
