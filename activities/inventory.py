"""The slow comparison of what exists with what is recorded: made where the driver is, with all its SQL inside."""

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
from prebuilds.background.witness import NoWitness, Witness
from prebuilds.payloads import Payload
from prebuilds.planning.inventory import APART, YOUNG, Existing, Finding, Found, compare, find_vanished
from prebuilds.provisioners.base import InventoryItem, Locality, Provisioner
from prebuilds.settings import Orphans
from prebuilds.store import inventory
from prebuilds.store.control import read_control
from prebuilds.store.identity import read_identity
from prebuilds.store.inventory import Place
from prebuilds.views import InventoryRow

logger = logging.getLogger(__name__)

Action = Literal["none", "removed", "replaced", "reported", "quarantined", "told", "failed"]

ROWS_MAX = 500
"""Of one look's findings that are told; all are remembered, and acted on."""
REMOVALS_MAX = 50
"""Orphans that one look removes, one after the other; the rest has waited for ten minutes and can wait ten more."""
REMOVAL_TIMEOUT_S = 60.0
REMOVALS_BEGIN_WITHIN_S = 90.0
"""None is begun later, so that all have ended after 150 s: a look that ran out of its five minutes would tell nothing.
"""
PROBES_AT_ONCE = 16
PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Look:
    """One place, to be looked at."""

    place: Place
    fix: bool


class Looked(Payload):
    """What was found at one place."""

    findings: list[InventoryRow] = Field(default_factory=list)
    omitted: int = 0


class PlaceActivities:
    """The control side."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @activity.defn
    async def list_places(self) -> list[Place]:
        """Every host and queue where something of ours should be, or may have stayed."""
        return await inventory.list_places(self._engine)


class InventoryActivities:
    """The provisioner side."""

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
        """Args:
        driver: Gives the driver of a name, the same one each time.
        host: Names this host.
        orphans: Whether orphans are removed, or only reported.
        young: Younger things are nobody's orphans yet.
        apart: Two sightings must be, before something is done.
        """
        self._engine = engine
        self._dispatcher = dispatcher
        self._driver = driver
        self._host = host
        self._orphans = orphans
        self._witness = witness or NoWitness()
        self._young = young
        self._apart = apart

    @activity.defn
    async def look(self, input: Look) -> Looked:
        """Compare what exists at a place with what is recorded; with `fix`, act on what was seen before.

        Raises:
            InvalidSource: The driver is not installed here.
        """
        async with heartbeating():
            place = input.place
            driver = self._driver(place.provisioner)
            if place.host != (self._host if driver.locality is Locality.HOST else None):
                return Looked()  # nothing was begun yet, so that no host is recorded: nothing to be found here
            await self._witness.contact()
            looked_at = await inventory.read_clock(self._engine)
            items = await driver.inventory()
            epoch = (await read_identity(self._engine)).epoch
            existing = [_existing(item, epoch) for item in items]
            recorded = await inventory.read_recorded(self._engine, place, [item.workspace_id for item in items])
            existing += await _not_gone(driver, find_vanished(existing, recorded, looked_at), looked_at)
            comparison = compare(
                existing,
                recorded,
                await inventory.read_sightings(self._engine, place),
                looked_at,
                young=self._young,
                apart=self._apart,
            )
            await inventory.keep_sightings(self._engine, place, comparison)
            fix = input.fix and (await read_control(self._engine)).restore_found is None
            actions = await self._act(driver, place, comparison.found, epoch) if fix else {}
            rows = [
                _row(place, found, actions.get(found.sighting.workspace_id, "none"), looked_at)
                for found in comparison.found
            ]
            return Looked(findings=rows[:ROWS_MAX], omitted=max(len(rows) - ROWS_MAX, 0))

    async def _act(self, driver: Provisioner, place: Place, found: list[Found], epoch: UUID) -> dict[UUID, Action]:
        """Act on what is confirmed. Returns what was done, by workspace id."""
        actions: dict[UUID, Action] = {}
        confirmed = [one for one in found if one.confirmed]
        for one in [one for one in confirmed if one.sighting.finding is Finding.VANISHED]:
            actions[one.sighting.workspace_id] = await self._follow_up(place, one)
        for one in [one for one in confirmed if one.sighting.finding is Finding.CONTRADICTED]:
            if await inventory.quarantine_contradicted(self._engine, place, one, epoch):
                actions[one.sighting.workspace_id] = "quarantined"
        orphans: list[UUID] = []
        for one in [one for one in confirmed if one.sighting.finding is Finding.ORPHAN]:
            if one.removable and self._orphans == "remove":
                orphans.append(one.sighting.workspace_id)
            else:
                await inventory.report_orphan(self._engine, place, one)
                actions[one.sighting.workspace_id] = "reported"
        random.shuffle(orphans)  # else those that cannot be removed would be before the others every time
        clock = asyncio.get_running_loop().time
        begin_until = clock() + REMOVALS_BEGIN_WITHIN_S
        for workspace_id in orphans[:REMOVALS_MAX]:
            if clock() > begin_until:
                break
            actions[workspace_id] = await self._remove(driver, place, workspace_id)
        return actions

    async def _follow_up(self, place: Place, found: Found) -> Action:
        if found.owned:
            return "told" if await inventory.tell_vanished(self._engine, place, found) else "none"
        preset_id = await inventory.give_up_vanished(self._engine, place, found)
        if preset_id is None:
            return "none"
        logger.warning(
            "A prebuild has vanished and is replaced", extra={"workspace_id": str(found.sighting.workspace_id)}
        )
        self._dispatcher.nudge([preset_id])
        return "replaced"

    async def _remove(self, driver: Provisioner, place: Place, workspace_id: UUID) -> Action:
        """Remove an orphan. It has no row to record a build for, so its driver is called right here."""
        removal = await inventory.read_removal(self._engine, workspace_id)
        if removal is None:
            return "none"
        told = {"workspace_id": str(workspace_id), "provisioner": place.provisioner}
        try:
            async with asyncio.timeout(REMOVAL_TIMEOUT_S):
                await driver.destroy(removal, _Logged(told))
        except Exception as error:  # one that stays must not keep the others
            logger.warning("An orphan could not be removed", extra=told | {"error": repr(error)})
            return "failed"
        await inventory.record_removed(self._engine, place, workspace_id)
        logger.warning("An orphan was removed", extra=told)
        return "removed"


async def _not_gone(driver: Provisioner, ids: list[UUID], looked_at: datetime) -> list[Existing]:
    """Those of *ids* that the driver does not itself say are gone: what it did not list, another worker may hold."""
    at_once = asyncio.Semaphore(PROBES_AT_ONCE)

    async def gone(workspace_id: UUID) -> bool:
        async with at_once:
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    return not await driver.probe(workspace_id)
            except Exception as error:  # it cannot tell, so nothing is concluded
                logger.info(
                    "A workspace that was not found could not be probed",
                    extra={"workspace_id": str(workspace_id), "error": repr(error)},
                )
                return False

    answers = await asyncio.gather(*[gone(workspace_id) for workspace_id in ids])
    return [
        Existing(id, running=True, created_at=looked_at)
        for id, is_gone in zip(ids, answers, strict=True)
        if not is_gone
    ]


def _existing(item: InventoryItem, epoch: UUID) -> Existing:
    return Existing(
        item.workspace_id,
        item.running,
        item.created_at,
        epoch_agrees=item.epoch == epoch,
        claimed_by=item.claimed_by,
        claim_id=item.claim_id,
    )


class _Logged:
    """The `Progress` of a removal: there is no build to tell it to."""

    def __init__(self, told: dict[str, str]) -> None:
        self._told = told

    def __call__(self, line: str) -> None:
        logger.info(line, extra=self._told)

    async def save_state(self, state: dict[str, Any]) -> None:
        """Nothing comes after a removal that could be given it."""


def _row(place: Place, found: Found, action: Action, looked_at: datetime) -> InventoryRow:
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
        age_seconds=(looked_at - found.since).total_seconds(),
        claimed_by=found.claimed_by,
        claim_id=found.claim_id,
    )
