"""What operators do, in one place: the CLI calls it beside the database, services through a workflow."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, get_args
from uuid import UUID

from temporalio.client import WorkflowFailureError
from temporalio.service import RPCError

from prebuilds.api import InvalidInput, OrchestratorNotRunning, PrebuildsError
from prebuilds.background.dispatch import NUDGED_MAX
from prebuilds.background.relay import (
    orchestrator_input,
    record_unwritten_stop,
    start_inventory,
    start_orchestrator,
)
from prebuilds.client import PrebuildsClient
from prebuilds.operations.loop_status import loop_status
from prebuilds.operations.people import PeopleOperations
from prebuilds.payloads import OperatorRequest, PeopleAction
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import GlobalSnapshot
from prebuilds.settings import Settings
from prebuilds.store import control, explain, presets, restoring, retiring
from prebuilds.store.identity import read_identity
from prebuilds.store.paging import LIMIT_DEFAULT, Page, part_of
from prebuilds.store.requests import AnsweredBefore
from prebuilds.store.retiring import ChangedTemplate
from prebuilds.store.status import read_snapshot, read_status
from prebuilds.templates import ApplyResult, TemplateFile
from prebuilds.templates import apply as apply_file
from prebuilds.temporal.connecting import no_such_workflow
from prebuilds.temporal.queues import queue_warnings
from prebuilds.views import (
    ClaimExplanation,
    InvalidateResult,
    InventoryReport,
    LiftResult,
    LoopStatus,
    PresetExplanation,
    PresetInfo,
    PresetRow,
    RestoredReport,
    StatusPage,
    SystemStatus,
    TemplateChange,
    TemplateRow,
    WaitingClaim,
    status_page,
)
from prebuilds.vocabulary import ORCHESTRATOR_ID, check_interval
from prebuilds.vocabulary.plain_text import check_plain

STATUS_BYTES_MAX = 400_000
"""Of one status through Temporal, which warns of a payload above 512 KiB and refuses one above 2 MiB."""
STATUS_ROWS_MAX = 1000
"""About as many as that. Each page reads the whole status anew, so that few large ones cost less than many."""
DRAIN_WAIT_S = 20.0
"""For a loop that drains, of a request through Temporal: it is answered while its caller still waits."""
NO_CAUSE = "no cause given"
NUDGE_TIMEOUT_S = 3.0
"""The change is committed, so nobody need wait long for a Temporal that is away."""


@dataclass(frozen=True, slots=True)
class Started:
    """What `start` did."""

    started: bool
    """False: it was running already."""
    interval_applied: bool


@dataclass(frozen=True, slots=True)
class Operations(PeopleOperations):
    """All of them: of the loop, presets and templates here, of people, workspaces and their builds inherited."""

    settings: Settings

    async def status(self) -> SystemStatus:
        who, loop, rows = await asyncio.gather(read_identity(self.engine), self.loop(), self._preset_rows())
        return SystemStatus(deployment_id=who.deployment_id, loop=loop, presets=rows)

    async def _preset_rows(self) -> list[PresetRow]:
        rows = await read_status(self.engine, await self.rules())
        queues = await presets.queues_of(self.engine, [row.preset_id for row in rows])
        told = await queue_warnings(self.client, set(queues.values()))
        warnings = {preset: told[queue] for preset, queue in queues.items() if queue in told}
        return [
            row.model_copy(update={"warnings": [*row.warnings, warnings[row.preset_id]]})
            if row.preset_id in warnings
            else row
            for row in rows
        ]

    async def status_page(self, after: str | None, limit: int | None) -> StatusPage:
        """A part of the status that one Temporal payload can carry; the client puts them together."""
        rows_max = min(limit or STATUS_ROWS_MAX, STATUS_ROWS_MAX)
        return status_page(await self.status(), after, rows_max, STATUS_BYTES_MAX)

    async def snapshot(self) -> GlobalSnapshot:
        return await read_snapshot(self.engine, await self.rules())

    async def rules(self) -> Rules:
        """As the control workers last wrote down that they decide; else as this environment says."""
        return (await control.read_control(self.engine)).rules or self.settings.rules

    async def loop(self) -> LoopStatus:
        return await loop_status(self.engine, self.client)

    async def start(
        self, interval: timedelta | None = None, by: str = "operator", *, within_s: float | None = None
    ) -> Started:
        """Start the loop, or apply *interval* to the one that runs; one that drains is awaited first.

        Args:
            by: Who asks, for the record.
            within_s: How long to wait for a loop that drains; None: to its end.
        Raises:
            InvalidInput: *interval* is none that a loop can keep.
            OrchestratorNotRunning: The loop drained for longer than *within_s*.
        """
        if interval is not None:
            try:
                check_interval(interval)
            except ValueError as error:
                raise InvalidInput.field("interval", str(error)) from error
        handle = self.client.get_workflow_handle(ORCHESTRATOR_ID)
        if (loop := await self.loop()).state == "draining":
            try:
                async with asyncio.timeout(within_s):
                    with suppress(WorkflowFailureError):  # somebody has terminated it meanwhile: it has ended, too
                        await handle.result()
            except TimeoutError:
                raise OrchestratorNotRunning(
                    f"the loop is still ending what it was at ({loop.cause}); start it again when it has stopped",
                    {"cause": loop.cause},
                ) from None
        with suppress(AnsweredBefore):  # by another attempt, which may have died before it started the loop
            await record_unwritten_stop(self.engine, self.client)  # so that the new loop has a number of its own
            await control.record_start(self.engine, interval, by)
        wanted = await control.read_control(self.engine)
        if wanted.loop == "stopped":  # since that attempt
            return Started(started=False, interval_applied=False)
        started = await start_orchestrator(self.client, orchestrator_input(wanted, self.settings))
        if not started and interval is not None:
            await handle.signal("set_interval", interval.total_seconds())
        return Started(started=started, interval_applied=interval is not None)

    async def stop(
        self, cause: str, *, by: str = "operator", wait: bool = False, asked_at: datetime | None = None
    ) -> bool:
        """Signal the loop to stop. Returns whether it was running.

        Args:
            cause: Kept for logs, the result and the operator.
            by: Who asks, for the record.
            wait: Return only when the loop has ended.
            asked_at: When, by Temporal's clock: a loop that began later goes on. None: now.
        Raises:
            InvalidInput: The cause would act where it is shown. A signal is not refused: there it is escaped.
        """
        _check_words("cause", cause)
        handle = self.client.get_workflow_handle(ORCHESTRATOR_ID)
        try:
            stop = {"cause": cause, "by": by}
            if asked_at is not None:
                stop["asked_at"] = asked_at.isoformat()
            await handle.signal("stop", stop)
        except RPCError as error:
            if not no_such_workflow(error):
                raise
            # Nothing runs, but a terminated loop would be brought back: write down that it is not wanted.
            await control.record_stop(self.engine, cause, by=by)
            return False
        if wait:
            try:
                await handle.result()
            except WorkflowFailureError:
                # Somebody has terminated it meanwhile, perhaps before it wrote the stop down: then it would come back.
                await control.record_stop(self.engine, cause)
        return True

    async def pause(self, reason: str, by: str) -> bool:
        if not reason.strip():
            raise InvalidInput.field("reason", "say why, for whoever finds the pools held")
        _check_words("reason", reason)
        paused = await control.pause(self.engine, by, reason)
        if paused:
            await self._nudge([])  # so that the loop knows
        return paused

    async def resume(self, by: str) -> bool:
        resumed = await control.resume(self.engine, by)
        if resumed:
            await self._nudge([])
        return resumed

    async def restored(self, by: str, *, dry_run: bool = False) -> RestoredReport:
        """After a restore: doubt what the database may be wrong about, and let claims and passes go on.

        Args:
            dry_run: Change nothing, and ask the hosts what they know to be somebody's.
        """
        done = await restoring.restored(self.engine, by, dry_run=dry_run)
        if not dry_run:
            await self._nudge([])
            return done.report
        looked = InventoryReport.model_validate(await (await start_inventory(self.client, fix=False)).result())
        claimed = [row for row in looked.findings if row.claimed_by is not None and row.finding != "vanished"]
        return done.report.model_copy(update={"claimed": claimed, "not_asked": looked.unavailable})

    async def reconcile(self, preset: str | None = None, *, wait: bool = False) -> None:
        """Nudge the loop, for one preset (an id or a path of the active version) or for all.

        Raises:
            OrchestratorNotRunning: The loop is stopped.
            PresetNotFound: No such preset.
        """
        wanted = [await self._preset_id(preset)] if preset is not None else []
        client = PrebuildsClient(self.client)
        if wait:
            await client.reconcile(wanted)
        else:
            await client.nudge(wanted)

    async def apply(self, file: TemplateFile, by: str, *, dry_run: bool = False) -> ApplyResult:
        """Make what is stored as *file* says, then have the loop act on it now; a nudge that is lost fails nothing.

        Args:
            dry_run: Find out what would change, and change nothing.
        """
        done = await apply_file(self.engine, file, actor=by, dry_run=dry_run)
        if done.changed and not dry_run:
            await self._nudge([])
        return done

    async def list_presets(
        self, template: str | None = None, *, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[PresetInfo]:
        """A part of the active versions' presets, by path; *after* is the `next` of the part before."""
        rows = await presets.list_presets(self.engine, await self.rules(), template)
        return part_of(rows, lambda row: f"{row.organization}/{row.template}/{row.preset}", limit, after)

    async def invalidate(self, by: str, *, preset: str | None = None, template: str | None = None) -> InvalidateResult:
        """Have the prebuilds of a preset, or of a template's active presets, replaced; none of them is claimed again.

        Raises:
            InvalidInput: Not exactly one of the two is given.
        """
        if (preset is None) == (template is None):
            raise InvalidInput.field("preset", "give exactly one of preset and template")
        done = await presets.invalidate(self.engine, by, preset=preset, template=template)
        if done.preset_ids:
            await self._nudge(done.preset_ids)
        return InvalidateResult(presets=len(done.preset_ids), prebuilds=done.prebuilds)

    async def lift_holds(self, preset: str, by: str) -> LiftResult:
        """Try a preset's creation again at once, whatever has failed before."""
        done = await presets.lift_holds(self.engine, preset, await self.rules(), by)
        if done.hold is not None:
            await self._nudge([done.preset.id])
        return LiftResult(preset_id=done.preset.id, preset=done.preset.path, lifted=done.hold)

    async def list_templates(self, *, limit: int = LIMIT_DEFAULT, after: str | None = None) -> Page[TemplateRow]:
        """A part of the live templates, by path; *after* is the `next` of the part before."""
        rows = await retiring.list_templates(self.engine)
        return part_of(rows, lambda row: f"{row.organization}/{row.template}", limit, after)

    async def deprecate_template(self, template: str, by: str, *, undo: bool = False) -> TemplateChange:
        return await self._changed(await retiring.deprecate_template(self.engine, template, by, undo=undo))

    async def delete_template(self, template: str, by: str) -> TemplateChange:
        return await self._changed(await retiring.delete_template(self.engine, template, by))

    async def _changed(self, done: ChangedTemplate) -> TemplateChange:
        if done.preset_ids:
            await self._nudge(done.preset_ids)
        return done.change

    async def explain_preset(self, preset: str, at: datetime | None = None) -> PresetExplanation:
        return await explain.explain_preset(self.engine, preset, await self.rules(), at)

    async def explain_claim(self, claim_id: str) -> ClaimExplanation:
        return await explain.explain_claim(self.engine, claim_id)

    async def list_waiting(self, preset: str | None = None) -> list[WaitingClaim]:
        """The first hundred claims that wait, for one preset (an id or a path) or for all, in their queues' order."""
        return await explain.list_waiting(self.engine, preset)

    async def request(self, request: OperatorRequest, *, asked_at: datetime | None = None) -> Any:
        """Carry out what a service asked for through Temporal, *asked_at* by its clock; returns what crosses back as
        JSON."""
        match request.action:
            case "status":
                return (await self.status_page(request.after, request.limit)).model_dump(mode="json")
            case "start":
                seconds = request.interval_seconds
                done = await self.start(
                    None if seconds is None else timedelta(seconds=seconds), request.by, within_s=DRAIN_WAIT_S
                )
                return {"started": done.started}
            case "stop":
                return {"stopping": await self.stop(request.reason or NO_CAUSE, by=request.by, asked_at=asked_at)}
            case "pause":
                return {"changed": await self.pause(request.reason or "", request.by)}
            case "resume":
                return {"changed": await self.resume(request.by)}
            case _:
                of_people = request.action in get_args(PeopleAction)
                carry_out = self.request_of_people if of_people else self.request_of_workspace
                return (await carry_out(request)).model_dump(mode="json")

    async def _preset_id(self, preset: str) -> UUID:
        async with self.engine.connect() as connection:
            return (await presets.find_preset(connection, preset)).id

    async def _nudge(self, preset_ids: Sequence[UUID]) -> None:
        """Have a change take effect now, of these presets or of all; a lost nudge costs one interval."""
        with suppress(PrebuildsError, TimeoutError, RuntimeError):  # a client that cannot connect fails by RuntimeError
            async with asyncio.timeout(NUDGE_TIMEOUT_S):
                await PrebuildsClient(self.client).nudge(preset_ids if len(preset_ids) <= NUDGED_MAX else [])


def _check_words(field: str, words: str) -> None:
    try:
        check_plain(words)
    except ValueError as error:
        raise InvalidInput.field(field, str(error)) from error
