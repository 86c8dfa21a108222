"""The protocols of `prebuilds/api.py`, implemented on Temporal and PostgreSQL.

The loop, the passes and the claims run as workflows on the deployment's workers. Another program uses these classes to
reach them through the protocols.
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
    """A `StateSnapshotter` that reads the database."""

    def __init__(self, rules: Rules | None = None) -> None:
        """*rules* are the deployment's rules; None for the defaults."""
        self._rules = rules or Rules()

    async def snapshot_state(self, connection: AsyncConnection) -> GlobalSnapshot:
        """Implement `StateSnapshotter.snapshot_state`."""
        return await snapshot_state(connection, self._rules)


class TemporalOrchestrator(TemporalSnapshotter):
    """A `ReconciliationOrchestrator` that controls the loop's workflow from another program."""

    def __init__(self, client: PrebuildsClient, engine: AsyncEngine, rules: Rules | None = None) -> None:
        super().__init__(rules)
        self._client = client
        self._engine = engine

    async def reconcile_all(self) -> None:
        """Ask the loop for a pass over all presets, and return when the pass has ended."""
        await self._client.reconcile()

    async def run(self) -> None:
        """Start the loop unless it runs, and return when it has ended."""
        await self._client.start()
        await self._client.temporal.get_workflow_handle(ORCHESTRATOR_ID).result()

    async def stop(self, cause: str) -> None:
        """Ask the loop to end gracefully; *cause* is recorded."""
        await self._client.stop(cause)

    async def track_resource_replacement(
        self, workspace_id: UUID, build_id: UUID, replacements: Sequence[Replacement]
    ) -> None:
        """Record the resources that a claim's build replaced. Repeated reports of one build count once."""
        await record_replacements(self._engine, workspace_id, build_id, replacements)


class TemporalClaimer:
    """A `Claimer` that runs one `ClaimWorkspace` workflow per call."""

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
        """Implement `Claimer.claim`.

        Raises:
            OwnerNotFound: No user has the id *user_id*.
            PrebuildsError: The errors of `PrebuildsClient.claim`.
        """
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
        parsed = parse_input(ClaimRequest, request, "claim")
        result = await self._client.claim_request(parsed, str(uuid4()), abandon=True)
        return result.workspace_id


class DisabledClaimer:
    """The `Claimer` of a deployment with prebuilds switched off: it refuses every claim."""

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
        """Raise `PrebuiltWorkspacesNotSupported`."""
        raise PrebuiltWorkspacesNotSupported(
            "prebuilds are switched off here", remedy="set PREBUILDS_ENABLED=true on the workers"
        )


# These assignments make the type checker compare the classes with their protocols.
_orchestrator: type[ReconciliationOrchestrator] = TemporalOrchestrator
_claimers: tuple[type[Claimer], ...] = (TemporalClaimer, DisabledClaimer)
