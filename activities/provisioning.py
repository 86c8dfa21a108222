"""One build through its provisioner, all SQL inside: begun before any effect, ended in one transaction after it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from activities.build_log import BuildLog
from activities.builds import BuildOutcome, ended_badly, ended_outcome, measure, read_replaced
from activities.heartbeat import heartbeating
from prebuilds.api import PrebuildsError, ProvisionFailed
from prebuilds.background.dispatch import Dispatcher
from prebuilds.background.witness import NoWitness, Witness
from prebuilds.provisioners.base import (
    InvalidSource,
    Locality,
    OwnedByAnother,
    Provision,
    Provisioned,
    Provisioner,
    StaleBuild,
)
from prebuilds.store import build_begin
from prebuilds.store.build_begin import AttemptOvertaken, SecretsUnreadable
from prebuilds.store.build_end import BuildEnd, Lost, end_build
from prebuilds.store.builds import BuildFacts, provisioning_queue
from prebuilds.store.replacements import Recorded, record_replacements
from prebuilds.vocabulary import PEOPLE_SUFFIX, BuildStatus, Stage, Transition

logger = logging.getLogger(__name__)

UNEXPECTED_TRIES_MAX = 3
"""A driver's bug, or a fault that it has no word for: tried so often, then the build has failed."""
ERROR_CHARS_MAX = 2000


class ProvisioningActivities:
    def __init__(
        self,
        engine: AsyncEngine,
        dispatcher: Dispatcher,
        driver: Callable[[str], Provisioner],
        host: str,
        witness: Witness | None = None,
    ) -> None:
        """Args:
        driver: Gives the driver of a name, the same one each time.
        host: Names this host, for what only the host that made it can serve.
        """
        self._engine = engine
        self._dispatcher = dispatcher
        self._driver = driver
        self._host = host
        self._witness = witness or NoWitness()

    @activity.defn
    async def run_build(self, build_id: UUID) -> BuildOutcome:
        """Take a recorded build to its end. Closed before: nothing happens."""
        failures = _unexpected_failures()
        async with heartbeating(failures):
            scheduled_at = activity.info().current_attempt_scheduled_time
            try:
                facts, wanted = await build_begin.begin_build(self._engine, build_id, scheduled_at)
            except SecretsUnreadable as unreadable:
                end = await self._failed(unreadable.facts, unreadable.error)
                return await ended_badly(self._engine, self._dispatcher, end)
            if wanted is None:
                return await self._closed(facts)
            if facts.stage is Stage.CLAIM:  # what this host now knows of the claim, a backup from before lacks
                await self._witness.contact()
            driver = self._driver(facts.provisioner)
            if driver.locality is Locality.HOST and (elsewhere := await self._elsewhere(facts)):
                return BuildOutcome(BuildStatus.RUNNING, moved_to=elsewhere)
            try:
                # Left before the end is recorded: who follows the log has read all of it when the build has ended.
                async with BuildLog(self._engine, build_id, facts.attempt) as log:
                    provisioned = await self._effect(driver, facts, wanted, _Progress(self._engine, facts, log))
            except asyncio.CancelledError:
                if not _asked_to_cancel():
                    raise  # the worker drains, or another attempt has taken over: the build itself goes on
                end = await self._end(facts, BuildStatus.CANCELED, error="canceled")
            except AttemptOvertaken:
                raise  # to nobody: the build is the later attempt's
            except (ProvisionFailed, InvalidSource, StaleBuild, OwnedByAnother) as error:
                end = await self._refused(facts, wanted, error)
            except Exception as error:
                if isinstance(error, PrebuildsError):
                    raise
                if failures + 1 < UNEXPECTED_TRIES_MAX:
                    activity.heartbeat(failures + 1)  # the last of this attempt: the next one is told
                    raise
                logger.exception("A provisioner failed unexpectedly", extra={"build_id": str(build_id)})
                end = await self._failed(facts, error)
            else:
                replaced = await read_replaced(self._engine, facts)
                end = await self._end(facts, BuildStatus.SUCCEEDED, provisioned=provisioned)
                measure(end, replaced=replaced.first)
                self._dispatcher.follow_up(end.served)
                return _outcome(end, replaced, provisioned)
            return await ended_badly(self._engine, self._dispatcher, end)

    async def _effect(
        self, driver: Provisioner, facts: BuildFacts, wanted: Provision, progress: _Progress
    ) -> Provisioned | None:
        """What this build's transition and stage mean to a driver."""
        match facts.transition:
            case Transition.DELETE:
                await driver.destroy(wanted, progress)
                return None
            case Transition.STOP:
                await driver.stop(wanted, progress)
                return None
            case Transition.START if facts.stage is Stage.CLAIM:
                replacements = await driver.plan(wanted)
                if replacements:
                    # Before the effect: an attempt after a crash finds nothing left to replace, and could not tell.
                    await record_replacements(self._engine, facts.workspace_id, facts.id, replacements)
                for one in replacements:
                    progress(f"{one.resource} is replaced because of {', '.join(one.paths)}")
                return await driver.claim(wanted, progress)
            case Transition.START:
                return await driver.apply(wanted, progress)

    async def _closed(self, facts: BuildFacts) -> BuildOutcome:
        if facts.status is BuildStatus.CANCELING:
            # Cancelled before this attempt. An earlier one may be frozen amid its effect: what it does when it wakes up
            # is refused by the driver, once that has seen a later build's number.
            end = await end_build(self._engine, facts.id, BuildStatus.CANCELED, error="canceled")
            return await ended_badly(self._engine, self._dispatcher, end)
        return await ended_outcome(self._engine, facts)

    async def _elsewhere(self, facts: BuildFacts) -> str | None:
        """The queue of the host that has the workspace; None when that is this one, or nobody yet."""
        host = facts.host or await build_begin.record_host(self._engine, facts.workspace_id, self._host)
        if host == self._host:
            return None
        base = facts.queue.partition("@")[0].removesuffix(PEOPLE_SUFFIX)
        return provisioning_queue(base, pool=facts.pool, host=host)

    async def _refused(self, facts: BuildFacts, wanted: Provision, error: PrebuildsError) -> BuildEnd:
        """End a build that its driver could not carry out, or refused since what exists is somebody else's."""
        if not isinstance(error, OwnedByAnother):
            return await self._failed(facts, error)
        lost = None
        if error.details.get("epoch") == str(wanted.epoch):  # this life of the database should know of that claim
            lost = Lost(f"host {self._host}: {error.message}", wanted.epoch)
        if facts.transition is Transition.DELETE and wanted.claimed:
            # The row's owner never had what is there: their workspace ends, and it stays as it is, for the inventory.
            return await self._end(facts, BuildStatus.SUCCEEDED, left=str(error), lost=lost)
        return await self._failed(facts, error, lost=lost)

    async def _failed(self, facts: BuildFacts, error: Exception, lost: Lost | None = None) -> BuildEnd:
        message = str(error) if isinstance(error, PrebuildsError) else f"{type(error).__name__}: {error}"
        return await self._end(
            facts, BuildStatus.FAILED, error=message[:ERROR_CHARS_MAX], error_type=type(error).__name__, lost=lost
        )

    async def _end(self, facts: BuildFacts, status: BuildStatus, **how: Any) -> BuildEnd:
        """End it as this attempt: an overtaken one leaves it to the later one."""
        return await end_build(self._engine, facts.id, status, attempt=facts.attempt, **how)


class _Progress:
    """One build's `Progress`."""

    def __init__(self, engine: AsyncEngine, facts: BuildFacts, log: BuildLog) -> None:
        self._engine = engine
        self._facts = facts
        self._log = log

    def __call__(self, line: str) -> None:
        self._log.tell(line)

    async def save_state(self, state: dict[str, Any]) -> None:
        await build_begin.save_state(self._engine, self._facts.id, state, self._facts.attempt)


def _asked_to_cancel() -> bool:
    details = activity.cancellation_details()
    return details is not None and details.cancel_requested and not details.not_found


def _unexpected_failures() -> int:
    """Of this build's earlier attempts. Temporal counts them all, and most have only waited for another build, or lost
    their worker."""
    told = activity.info().heartbeat_details
    return int(told[0]) if told else 0


def _outcome(end: BuildEnd, replaced: Recorded, provisioned: Provisioned | None) -> BuildOutcome:
    address = provisioned.address if provisioned is not None and end.status is BuildStatus.SUCCEEDED else None
    return BuildOutcome(end.status, end.error, replaced.replacements, address=address)
