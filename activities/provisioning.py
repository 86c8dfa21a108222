"""The activity that provisions a build: it begins the build in the database, calls the driver, and records the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity

from activities.build_log import BuildLog
from activities.builds import (
    BuildOutcome,
    follow_up_end,
    measure_build,
    read_outcome,
    read_recorded_replacements,
)
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
from prebuilds.provisioners.optional import PausingProvisioner
from prebuilds.provisioners.replies import STATE_MAX, UNPRINTABLE, check_made, check_replacements, json_object, words_of
from prebuilds.store import build_begin
from prebuilds.store.build_begin import AttemptOvertaken, SecretsUnreadable
from prebuilds.store.build_end import BuildEnd, Lost, end_build
from prebuilds.store.builds import BuildFacts, provisioning_queue
from prebuilds.store.replacements import RecordedReplacements, record_replacements
from prebuilds.telemetry import tracing
from prebuilds.telemetry.metrics import METRICS
from prebuilds.vocabulary import PEOPLE_SUFFIX, BuildStatus, Stage, Transition

logger = logging.getLogger(__name__)

UNEXPECTED_TRIES_MAX = 3
"""Attempts after an unexpected driver exception; then the build fails."""
ERROR_CHARS_MAX = 2000


class UnexpectedEnd(Exception):
    """A driver ended a call with an exception that it must not raise. The build is retried, as after any unexpected
    error."""


class ProvisioningActivities:
    """The activity of `WorkspaceBuild` on provisioner workers."""

    def __init__(
        self,
        engine: AsyncEngine,
        dispatcher: Dispatcher,
        driver: Callable[[str], Provisioner],
        host: str,
        witness: Witness | None = None,
    ) -> None:
        """Make the activities of one host's provisioner worker.

        Args:
            driver: Returns the driver with a name, the same one each time.
            host: The name of this host. It is recorded for workspaces that only the host that made them can serve.
        """
        self._engine = engine
        self._dispatcher = dispatcher
        self._driver = driver
        self._host = host
        self._witness = witness or NoWitness()

    @activity.defn
    async def run_build(self, build_id: UUID) -> BuildOutcome:
        """Take a recorded build to its end. For a build that has ended already, this only returns its outcome."""
        with METRICS.use_slot(activity.info().task_queue):
            return await self._run(build_id)

    async def _run(self, build_id: UUID) -> BuildOutcome:
        failures = _unexpected_failures()
        async with heartbeating(failures):
            scheduled_at = activity.info().current_attempt_scheduled_time
            try:
                facts, wanted = await build_begin.begin_build(self._engine, build_id, scheduled_at)
            except SecretsUnreadable as unreadable:
                end = await self._end_failed(unreadable.facts, unreadable.error)
                return await follow_up_end(self._engine, self._dispatcher, end)
            if wanted is None:
                return await self._finish_without_driver(facts)
            if facts.stage is Stage.CLAIM:
                # This host is about to learn of the claim. The witness remembers how new the database was then, and so
                # notices when the database is restored from an earlier backup.
                await self._witness.contact()
            driver = self._driver(facts.provisioner)
            if driver.locality is Locality.HOST and (queue := await self._queue_of_other_host(facts)):
                return BuildOutcome(BuildStatus.RUNNING, moved_to=queue)
            try:
                # The log is complete before the end is recorded, so that its followers miss no line.
                async with BuildLog(self._engine, build_id, facts.attempt) as log:
                    provisioned = await self._call_driver(driver, facts, wanted, _Progress(self._engine, facts, log))
            except asyncio.CancelledError:
                if not _cancel_requested():
                    raise  # the worker drains, or another attempt has taken over: the build itself goes on
                end = await self._end(facts, BuildStatus.CANCELED, error="canceled")
            except AttemptOvertaken:
                raise  # the build belongs to the later attempt; nobody receives this error
            except (ProvisionFailed, InvalidSource, StaleBuild, OwnedByAnother) as error:
                end = await self._end_after_driver_error(facts, wanted, error)
            except Exception as error:
                if isinstance(error, PrebuildsError):
                    raise
                if failures + 1 < UNEXPECTED_TRIES_MAX:
                    activity.heartbeat(failures + 1)  # the last heartbeat of this attempt; the next attempt reads it
                    raise
                logger.exception("A provisioner failed unexpectedly", extra={"build_id": str(build_id)})
                end = await self._end_failed(facts, error)
            else:
                recorded = await read_recorded_replacements(self._engine, facts)
                end = await self._end(facts, BuildStatus.SUCCEEDED, provisioned=provisioned)
                measure_build(end, replaced=recorded.first)
                self._dispatcher.follow_up(end.served)
                return _outcome(end, recorded, provisioned)
            return await follow_up_end(self._engine, self._dispatcher, end)

    async def _call_driver(
        self, driver: Provisioner, facts: BuildFacts, wanted: Provision, progress: _Progress
    ) -> Provisioned | None:
        """Call the driver's method for the build's transition and stage.

        Returns:
            What a start or a claim made, or what a stop left; None for a deletion, and for a stop that returns None.
        Raises:
            InvalidReply: The driver returned a value that cannot be recorded.
            UnexpectedEnd: The driver raised an exception by which the worker would exit or wait for ever, such as
                `SystemExit`.
        """
        try:
            return await self._call_method(driver, facts, wanted, progress)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise UnexpectedEnd("the provisioner has cancelled itself") from error
        except SystemExit as error:
            raise UnexpectedEnd(f"the provisioner has called exit({error.code})") from error
        except Exception as error:
            if words_of(error).endswith(UNPRINTABLE):
                raise UnexpectedEnd(f"the provisioner has raised {words_of(error)}") from None
            raise

    async def _call_method(
        self, driver: Provisioner, facts: BuildFacts, wanted: Provision, progress: _Progress
    ) -> Provisioned | None:
        match facts.transition:
            case Transition.DELETE:
                with _driver_span(facts, "destroy"):
                    await driver.destroy(wanted, progress)
                return None
            case Transition.STOP:
                with _driver_span(facts, "stop"):
                    return check_made("stop", await driver.stop(wanted, progress), optional=True)
            case Transition.PAUSE:
                with _driver_span(facts, "pause"):
                    return check_made("pause", await _pausing(driver).pause(wanted, progress), optional=True)
            case Transition.START if facts.stage is Stage.RESUME:
                with _driver_span(facts, "resume"):
                    return check_made("resume", await _pausing(driver).resume(wanted, progress))
            case Transition.START if facts.stage is Stage.CLAIM:
                if isinstance(driver, PausingProvisioner) and not driver.hands_over(wanted.source):
                    # The workspace may be a paused prebuild, and a claim by such a driver does not resume it.
                    with _driver_span(facts, "resume"):
                        check_made("resume", await driver.resume(wanted, progress))
                with _driver_span(facts, "plan"):
                    replacements = check_replacements("plan", await driver.plan(wanted))
                if replacements:
                    # Recorded before the effect: an attempt after a crash would find nothing left to replace.
                    await record_replacements(self._engine, facts.workspace_id, facts.id, replacements)
                for one in replacements:
                    progress(f"{one.resource} is replaced because of {', '.join(one.paths)}")
                with _driver_span(facts, "claim"):
                    return check_made("claim", await driver.claim(wanted, progress))
            case Transition.START:
                with _driver_span(facts, "apply"):
                    return check_made("apply", await driver.apply(wanted, progress))

    async def _finish_without_driver(self, facts: BuildFacts) -> BuildOutcome:
        """Return the outcome of a build that has ended; a build that is being canceled ends here."""
        if facts.status is BuildStatus.CANCELING:
            # The build was canceled before this attempt. An earlier attempt may be frozen in a driver call. When it
            # wakes up, the driver refuses its work if a later build of the workspace has reached the driver.
            end = await end_build(self._engine, facts.id, BuildStatus.CANCELED, error="canceled")
            return await follow_up_end(self._engine, self._dispatcher, end)
        return await read_outcome(self._engine, facts)

    async def _queue_of_other_host(self, facts: BuildFacts) -> str | None:
        """Return the queue of another host that has the workspace.

        None when this host has it, or when no host had it: then it is recorded for this host.
        """
        host = facts.host or await build_begin.record_host(self._engine, facts.workspace_id, self._host)
        if host == self._host:
            return None
        base = facts.queue.partition("@")[0].removesuffix(PEOPLE_SUFFIX)
        return provisioning_queue(base, pool=facts.pool, host=host)

    async def _end_after_driver_error(self, facts: BuildFacts, wanted: Provision, error: PrebuildsError) -> BuildEnd:
        """End a build whose driver could not carry it out, or refused it because what exists belongs to somebody else.

        It ends as failed; only the deletion of a claimed workspace that was refused like that succeeds.
        """
        if not isinstance(error, OwnedByAnother):
            return await self._end_failed(facts, error)
        lost = None
        if error.details.get("epoch") == str(wanted.epoch):
            # The claim was made in the current epoch, and this database does not know it: the database was restored.
            lost = Lost(f"host {self._host}: {error.message}", wanted.epoch)
        if facts.transition is Transition.DELETE and wanted.claimed:
            # What exists never belonged to the row's owner. The owner's workspace ends; what exists stays as it is, and
            # the inventory reports it.
            return await self._end(facts, BuildStatus.SUCCEEDED, left=str(error), lost=lost)
        return await self._end_failed(facts, error, lost=lost)

    async def _end_failed(self, facts: BuildFacts, error: Exception, lost: Lost | None = None) -> BuildEnd:
        """End a build as failed with *error*."""
        message = str(error) if isinstance(error, PrebuildsError) else words_of(error)
        if not message.strip():
            message = f"{type(error).__name__}, for which the provisioner gave no reason"
        return await self._end(
            facts, BuildStatus.FAILED, error=message[:ERROR_CHARS_MAX], error_type=type(error).__name__, lost=lost
        )

    async def _end(self, facts: BuildFacts, status: BuildStatus, **how: Any) -> BuildEnd:
        """End the build in the name of this attempt; an attempt that was overtaken cannot."""
        return await end_build(self._engine, facts.id, status, attempt=facts.attempt, **how)


class _Progress:
    """The `Progress` of one build: lines go to its log, states to its row."""

    def __init__(self, engine: AsyncEngine, facts: BuildFacts, log: BuildLog) -> None:
        self._engine = engine
        self._facts = facts
        self._log = log

    def __call__(self, line: str) -> None:
        self._log.add(line)

    async def save_state(self, state: dict[str, Any]) -> None:
        json_object("save_state", state, STATE_MAX)
        await build_begin.save_state(self._engine, self._facts.id, state, self._facts.attempt)


def _driver_span(facts: BuildFacts, method: str) -> AbstractContextManager[Any]:
    """Make a span of a driver's call."""
    attributes: dict[str, str | int] = {
        "prebuilds.provisioner": facts.provisioner,
        "prebuilds.workspace.id": str(facts.workspace_id),
        "prebuilds.build.id": str(facts.id),
        "prebuilds.build.attempt": facts.attempt,
        "prebuilds.preset": f"{facts.organization}/{facts.template}/{facts.preset or '-'}",
    }
    return tracing.span(f"{facts.provisioner} {method}", attributes)


def _pausing(driver: Provisioner) -> PausingProvisioner:
    """Return the driver as a `PausingProvisioner`.

    Raises:
        ProvisionFailed: It cannot pause. The template was applied with another release of the driver.
    """
    if not isinstance(driver, PausingProvisioner):
        raise ProvisionFailed(
            f"{type(driver).__name__} has no pause and resume here",
            remedy="install a release of the provisioner that can pause, or set standby to 0 and apply again",
        )
    return driver


def _cancel_requested() -> bool:
    details = activity.cancellation_details()
    return details is not None and details.cancel_requested and not details.not_found


def _unexpected_failures() -> int:
    """Return how many earlier attempts failed unexpectedly.

    Temporal's own count includes attempts that only waited for another build or lost their worker.
    """
    details = activity.info().heartbeat_details
    return int(details[0]) if details else 0


def _outcome(end: BuildEnd, recorded: RecordedReplacements, provisioned: Provisioned | None) -> BuildOutcome:
    address = provisioned.address if provisioned is not None and end.status is BuildStatus.SUCCEEDED else None
    return BuildOutcome(end.status, end.error, recorded.replacements, address=address)
