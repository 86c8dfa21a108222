"""The inventory's activities: compare what exists at a place with what is recorded, on a worker beside the driver."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from activities.heartbeat import heartbeating
from prebuilds.background.dispatch import Dispatcher
from prebuilds.background.watching import probe_missing
from prebuilds.background.witness import NoWitness, Witness
from prebuilds.payloads import Payload
from prebuilds.planning.inventory import APART, YOUNG, Existing, Finding, Found, compare, find_vanished
from prebuilds.provisioners.base import InventoryItem, Locality, Provisioner
from prebuilds.settings import Orphans
from prebuilds.store import inventory, inventory_findings
from prebuilds.store.identity import read_identity
from prebuilds.store.inventory import Place
from prebuilds.store.loop import read_control
from prebuilds.views import InventoryRow

logger = logging.getLogger(__name__)

Action = Literal["none", "removed", "replaced", "reported", "quarantined", "told", "failed"]

ROWS_MAX = 500
"""The most findings in one place's report. All findings are remembered and acted on."""
REMOVALS_MAX = 50
"""The most orphans that one inspection removes, one after the other. The others wait ten minutes for the next one."""
REMOVAL_TIMEOUT_S = 60.0
REMOVALS_BEGIN_WITHIN_S = 90.0
"""No removal begins later, so that all have ended after 150 s. An inspection that exceeded its timeout of five minutes
would report nothing."""


@dataclass(frozen=True)
class InspectPlace:
    """Input of `inspect_place`."""

    place: Place
    fix: bool
    """Whether to act on confirmed findings."""


class PlaceReport(Payload):
    """The findings at one place."""

    findings: list[InventoryRow] = Field(default_factory=list)
    omitted: int = 0
    """The number of findings that are left out."""


class PlaceActivities:
    """The inventory's activity on control workers."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @activity.defn
    async def list_places(self) -> list[Place]:
        """List every host and queue where something of ours should be or may be left."""
        return await inventory.list_places(self._engine)


class InventoryActivities:
    """The inventory's activity on provisioner workers."""

    def __init__(
        self,
        engine: AsyncEngine,
        dispatcher: Dispatcher,
        driver: Callable[[str], Provisioner],
        host: str,
        witness: Witness | None = None,
        *,
        orphans: Orphans = "remove",
        young: timedelta = YOUNG,
        apart: timedelta = APART,
    ) -> None:
        """Make the activities of one host's inventory.

        Args:
            driver: Returns the driver with a name, the same one each time.
            host: The name of this host.
            orphans: Whether orphans are removed or only reported.
            young: A thing that is younger is not taken for an orphan yet.
            apart: The least time between two sightings before the inventory acts.
        """
        self._engine = engine
        self._dispatcher = dispatcher
        self._driver = driver
        self._host = host
        self._orphans = orphans
        self._witness = witness or NoWitness()
        self._young = young
        self._apart = apart

    @activity.defn(name="look")
    async def inspect_place(self, input: InspectPlace) -> PlaceReport:
        """Compare what exists at a place with what is recorded; with `fix`, act on findings that were seen before.

        Raises:
            InvalidSource: The driver is not installed here.
        """
        async with heartbeating():
            place = input.place
            driver = self._driver(place.provisioner)
            if place.host != (self._host if driver.locality is Locality.HOST else None):
                return PlaceReport()  # no host is recorded, so no build has begun and nothing can be here
            await self._witness.contact()
            inspected_at = await inventory.read_clock(self._engine)
            items = await driver.inventory()
            epoch = (await read_identity(self._engine)).epoch
            existing = [_existing(item, epoch) for item in items]
            recorded = await inventory.read_recorded(self._engine, place, [item.workspace_id for item in items])
            existing += await probe_missing(driver, find_vanished(existing, recorded, inspected_at), inspected_at)
            comparison = compare(
                existing,
                recorded,
                await inventory.read_sightings(self._engine, place),
                inspected_at,
                young=self._young,
                apart=self._apart,
            )
            await inventory.keep_sightings(self._engine, place, comparison)
            fix = input.fix and (await read_control(self._engine)).restore_found is None
            actions = await self._act_on_confirmed(driver, place, comparison.found, epoch) if fix else {}
            rows = [
                _row(place, found, actions.get(found.sighting.workspace_id, "none"), inspected_at)
                for found in comparison.found
            ]
            return PlaceReport(findings=rows[:ROWS_MAX], omitted=max(len(rows) - ROWS_MAX, 0))

    async def _act_on_confirmed(
        self, driver: Provisioner, place: Place, found: list[Found], epoch: UUID
    ) -> dict[UUID, Action]:
        """Act on confirmed findings, and return the actions by workspace id."""
        actions: dict[UUID, Action] = {}
        confirmed = [one for one in found if one.confirmed]
        for one in [one for one in confirmed if one.sighting.finding is Finding.VANISHED]:
            actions[one.sighting.workspace_id] = await self._follow_up_vanished(place, one)
        for one in [one for one in confirmed if one.sighting.finding is Finding.CONTRADICTED]:
            if await inventory_findings.quarantine_contradicted(self._engine, place, one, epoch):
                actions[one.sighting.workspace_id] = "quarantined"
        orphans: list[UUID] = []
        for one in [one for one in confirmed if one.sighting.finding is Finding.ORPHAN]:
            if one.removable and self._orphans == "remove":
                orphans.append(one.sighting.workspace_id)
            else:
                await inventory_findings.report_orphan(self._engine, place, one)
                actions[one.sighting.workspace_id] = "reported"
        random.shuffle(
            orphans
        )  # in a fixed order, orphans that cannot be removed could keep the others from their turn
        clock = asyncio.get_running_loop().time
        begin_until = clock() + REMOVALS_BEGIN_WITHIN_S
        for workspace_id in orphans[:REMOVALS_MAX]:
            if clock() > begin_until:
                break
            actions[workspace_id] = await self._remove_orphan(driver, place, workspace_id)
        return actions

    async def _follow_up_vanished(self, place: Place, found: Found) -> Action:
        """Warn the owner of a vanished workspace, or have a vanished prebuild replaced."""
        if found.owned:
            return "told" if await inventory_findings.report_vanished(self._engine, place, found) else "none"
        preset_id = await inventory_findings.give_up_vanished(self._engine, place, found)
        if preset_id is None:
            return "none"
        logger.warning(
            "A prebuild has vanished and is replaced", extra={"workspace_id": str(found.sighting.workspace_id)}
        )
        self._dispatcher.nudge([preset_id])
        return "replaced"

    async def _remove_orphan(self, driver: Provisioner, place: Place, workspace_id: UUID) -> Action:
        """Remove an orphan. No row exists to record a build for, so this calls the driver directly."""
        removal = await inventory_findings.read_removal(self._engine, workspace_id)
        if removal is None:
            return "none"
        facts = {"workspace_id": str(workspace_id), "provisioner": place.provisioner}
        try:
            async with asyncio.timeout(REMOVAL_TIMEOUT_S):
                await driver.destroy(removal, _LoggedProgress(facts))
        except Exception as error:  # the other orphans are removed all the same
            logger.warning("An orphan could not be removed", extra=facts | {"error": repr(error)})
            return "failed"
        await inventory_findings.record_removed(self._engine, place, workspace_id)
        logger.warning("An orphan was removed", extra=facts)
        return "removed"


def _existing(item: InventoryItem, epoch: UUID) -> Existing:
    return Existing(
        item.workspace_id,
        item.running,
        item.created_at,
        epoch_agrees=item.epoch == epoch,
        claimed_by=item.claimed_by,
        claim_id=item.claim_id,
    )


class _LoggedProgress:
    """The `Progress` of a removal. It goes to the worker's log, since a removal has no build."""

    def __init__(self, facts: dict[str, str]) -> None:
        self._facts = facts

    def __call__(self, line: str) -> None:
        """Log a line."""
        logger.info(line, extra=self._facts)

    async def save_state(self, state: dict[str, Any]) -> None:
        """Drop the state: no call of the driver follows a removal."""


def _row(place: Place, found: Found, action: Action, inspected_at: datetime) -> InventoryRow:
    sighting = found.sighting
    return InventoryRow(
        workspace_id=sighting.workspace_id,
        provisioner=place.provisioner,
        host=place.host,
        finding=sighting.finding.value,
        first_seen_at=sighting.first_seen_at,
        last_seen_at=sighting.last_seen_at,
        sightings=sighting.sightings,
        action=action,
        age_seconds=(inspected_at - found.since).total_seconds(),
        claimed_by=found.claimed_by,
        claim_id=found.claim_id,
    )
