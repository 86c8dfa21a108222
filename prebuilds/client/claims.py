"""Claims by a client of Temporal: starts a claim's workflow or attaches to it, waits for the answer, and gives the
claim up when the caller leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import zip_longest
from typing import Any, Literal
from uuid import uuid4

from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from prebuilds.api import (
    ClaimIdReused,
    InvalidInput,
    RequestCanceled,
    RequestFailed,
    StackUnreachable,
    StoreUnavailable,
)
from prebuilds.client.base import TemporalPart
from prebuilds.client.durations import seconds_of
from prebuilds.client.leaving import give_up
from prebuilds.failures.claims import advise_retry, name_claim, name_unanswered_claim
from prebuilds.failures.temporal import asking_temporal, no_such_workflow
from prebuilds.payloads import (
    ClaimId,
    ClaimRequest,
    ClaimResult,
    ClaimsRequest,
    ClaimsResult,
    ClaimTerms,
    parse_claim_id,
    parse_input,
)
from prebuilds.temporal.connecting import reached, result_of, start_short
from prebuilds.temporal.payload_key import PayloadKeyUnusable
from prebuilds.vocabulary import CLAIMS_QUEUE, OnEmpty, claim_workflow_id
from prebuilds.vocabulary.owners import same_owner

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 60.0
"""Limit of a claim's answer, in addition to the claim's own wait timeout. A worker answers in milliseconds, or says
within 10 s that the database is away; only a claim without a worker takes longer. The client enforces this limit,
because an execution timeout would cost each claim a timer in Temporal."""
START_TIMEOUT_S = 5.0
"""Limit of a start, and of the end of a cancelled claim."""
GIVE_UP_TIMEOUT_S = 5.0
"""Limit of a caller's wait until its claim is given up. Afterwards giving up goes on in the background, so that a
server that is away does not hold back a caller who wants to leave."""
_GIVING_UP: set[asyncio.Task[bool]] = set()
"""Keeps the background tasks alive: the event loop has only weak references to them."""


class ClaimsClient(TemporalPart):
    """The part of `PrebuildsClient` that claims workspaces."""

    async def claim(
        self,
        *,
        owner: str,
        name: str,
        preset: str | None = None,
        template: str | None = None,
        parameters: Mapping[str, str] | None = None,
        initiator: str | None = None,
        autostart_schedule: str | None = None,
        next_start_at: datetime | None = None,
        ttl: timedelta | None = None,
        lease_seconds: float | None = None,
        claim_parameters: Mapping[str, str] | None = None,
        on_empty: OnEmpty = OnEmpty.FAIL,
        wait_timeout: timedelta | None = None,
        on_timeout: Literal["fail", "create"] = "fail",
        create_owner: bool = False,
        claim_id: ClaimId | None = None,
    ) -> ClaimResult:
        """Claim a workspace for a person.

        Args:
            owner: Who gets the workspace.
            name: What the owner calls it; unique among their live workspaces.
            preset: An id, or `organization/template/preset`.
            template: `organization/template`, with *parameters*, in place of *preset*.
            initiator: Who asks; None for the owner. Never `prebuilds`.
            autostart_schedule: When the workspace starts by itself: a cron expression, in UTC unless `CRON_TZ=Zone `
                precedes it. None for never.
            next_start_at: The first automatic start; None to compute it from the schedule.
            ttl: How long a start lasts; None for the template's default, zero for no end.
            lease_seconds: How long the workspace is kept unless `renew` is called in time, from a minute to 30 days; it
                is released afterwards, with everything in it. The time begins when the workspace is ready. None to keep
                it until somebody releases it.
            claim_parameters: Values of the parameters that the preset lets a claim set. They are treated as secrets.
            on_empty: What to do when nothing is ready: fail, create an ordinary workspace, or wait for a prebuild.
            wait_timeout: Maximum time to wait for a prebuild; None for five minutes.
            on_timeout: What to do when no prebuild became ready in this time: fail, or create an ordinary workspace.
            create_owner: True to make an unknown owner, or one who is not a member, a member in the claim's own
                transaction. It does not bring back people who were removed or disabled.
            claim_id: A claim repeated under its id gets the same answer. None makes a new id and ties the claim to
                this call: if the caller is cancelled, for instance by a timeout, or Temporal and the workers do not
                answer, the claim is cancelled, and a workspace that it has won nevertheless is released. Nothing is
                given up after `StoreUnavailable`: that needs the database, too.
        Raises:
            StackUnreachable: Temporal or the workers do not answer. The claim may be repeated with the same id, which
                is in the message, in the remedy and in the details' `claim_id`.
            StoreUnavailable: The database does not answer, so it is not known whether the claim has won. Repeat it
                with the same id, which is in the same places: it gets the workspace that it has won, or claims one.
            asyncio.CancelledError: It has a note with the claim's id when the claim may go on or may have won.
            PrebuildsError: By its type: `NoClaimablePrebuiltWorkspaces`, `NameTaken`, `InvalidInput`, ...
        """
        fields = {
            "preset": preset,
            "template": template,
            "parameters": dict(parameters or {}),
            "owner": owner,
            "name": name,
            "initiator": initiator,
            "autostart_schedule": autostart_schedule,
            "next_start_at": next_start_at,
            "ttl_seconds": seconds_of("ttl", ttl),
            "lease_seconds": lease_seconds,
            "claim_parameters": dict(claim_parameters or {}),
            "on_empty": on_empty,
            "on_timeout": on_timeout,
            "create_owner": create_owner,
        }
        if wait_timeout is not None:
            fields["wait_timeout_seconds"] = seconds_of("wait_timeout", wait_timeout)
        request = parse_input(ClaimRequest, fields, "claim")
        return await self.claim_request(request, new_id_unless(claim_id), abandon=claim_id is None)

    async def claim_request(self, request: ClaimRequest, claim_id: str, *, abandon: bool = False) -> ClaimResult:
        """Claim as *request* says, under *claim_id*. Errors are those of `claim`.

        Args:
            abandon: True to give the claim up, and release what it has won, when the caller is cancelled or gets no
                answer. It is for a claim that nobody will repeat under its id.
        """
        workflow_id = claim_workflow_id(parse_claim_id(claim_id))
        claiming = self._run_claim("ClaimWorkspace", request, workflow_id, claim_id, abandon)
        result = ClaimResult.model_validate(await claiming)
        _check_is_ours(result, request.owner, request.name)
        return result

    async def start_claim(self, request: ClaimRequest, claim_id: str) -> str:
        """Have a claims worker decide a claim, or attach to its workflow; do not wait for the answer.

        Returns:
            Temporal's id of the run that works on the claim.
        Raises:
            ClaimIdReused: Another request is under way under this id.
            StackUnreachable: Temporal does not answer. The claim may be under way.
        """
        workflow_id = claim_workflow_id(parse_claim_id(claim_id))
        try:
            with asking_temporal():
                async with asyncio.timeout(START_TIMEOUT_S):
                    handle = await self._start_claim("ClaimWorkspace", request, workflow_id)
        except TimeoutError as error:
            raise _no_answer(claim_id) from error
        return handle.result_run_id or ""

    async def leave_queue(self, claim_id: str, workflow_id: str | None = None) -> bool:
        """Cancel a claim that waits, and wait until its workflow has ended. The database knows if it has won.

        Args:
            workflow_id: Of the workflow that waits; None for the one that `start_claim` starts.
        Returns:
            Whether a workflow of the claim was under way.
        Raises:
            StackUnreachable: Temporal or the claims workers do not answer. The claim may go on.
        """
        handle = self.temporal.get_workflow_handle(workflow_id or claim_workflow_id(parse_claim_id(claim_id)))
        try:
            with asking_temporal():
                async with asyncio.timeout(START_TIMEOUT_S):
                    return await _cancel_to_its_end(handle)
        except TimeoutError as error:
            raise _no_answer(claim_id) from error

    async def claim_all(self, request: ClaimsRequest, claim_id: ClaimId | None = None) -> ClaimsResult:
        """Claim a workspace for each of the request's names, in one transaction.

        Args:
            claim_id: One id for all of them together; None as in `claim`.
        Returns:
            The claims in the order of the names.
        Raises:
            PrebuildsError: The errors of `claim`. Nothing was claimed then.
        """
        id_ = parse_claim_id(new_id_unless(claim_id), members=len(request.names))
        claiming = self._run_claim("ClaimWorkspaces", request, f"claim-workspaces/{id_}", id_, claim_id is None)
        result = ClaimsResult.model_validate(await claiming)
        for claim, name in zip_longest(result.claims, request.names):
            _check_is_ours(claim, request.owner, name)
        return result

    async def _run_claim(self, workflow: str, request: ClaimTerms, id: str, claim_id: str, abandon: bool) -> Any:
        """Start the workflow *id*, or attach to it, and return its answer."""
        # A separate task survives a cancellation of the caller: giving up needs to know whether the workflow started.
        starting = asyncio.create_task(reached(self._start_claim(workflow, request, id)))
        waits = request.on_empty is OnEmpty.WAIT
        bound_s = ANSWER_TIMEOUT_S + (request.wait_timeout_seconds if waits else 0)
        leave = partial(
            self._stop_waiting,
            starting,
            id,
            _member_ids(request, claim_id),
            request.initiator_or_owner if abandon else None,
        )
        known = {"claim_id": claim_id}
        try:
            async with asyncio.timeout(bound_s) as bound:
                return await self._await_answer(starting, id)
        except TimeoutError as error:
            if not bound.expired():
                raise
            given_up = await leave()
            raise StackUnreachable(
                f"no worker has answered claim {claim_id} in {bound_s:g} s",
                known,
                remedy=f"start `prebuilds worker --role claims`, and {advise_retry(given_up=given_up)}",
                inputs={} if given_up else known,
            ) from error
        except asyncio.CancelledError as error:
            if not await leave():
                error.add_note(f"claim {claim_id} may go on or may have won: claim with this id to get its answer")
            raise
        except (StackUnreachable, RequestFailed) as error:  # the claim may go on: perhaps only the reply was lost
            raise name_unanswered_claim(error, claim_id, given_up=await leave()) from error
        # The caller needs the claim's id to read what is recorded or, with the right key, what was answered.
        except (StoreUnavailable, RequestCanceled, PayloadKeyUnusable) as error:
            raise name_claim(error, claim_id) from error

    async def _start_claim(self, workflow: str, request: ClaimTerms, id: str) -> WorkflowHandle[Any, Any]:
        """Start a claim's workflow, or attach to the running workflow of the same request.

        Raises:
            ClaimIdReused: The running workflow has another request. (For ended claims the database detects this.)
        """
        try:
            return await start_short(
                self.temporal,
                workflow,
                request.model_dump(mode="json", exclude_defaults=True),
                id=id,
                task_queue=CLAIMS_QUEUE,
                search=_search_attributes(request),
                summary=f"{request.owner} claims {_describe_names(request)} of {request.preset or request.template}",
                eager=True,
                attach=False,
            )
        except WorkflowAlreadyStartedError as error:
            handle = self.temporal.get_workflow_handle(id, run_id=error.run_id)
            started = await anext(handle.fetch_history_events(page_size=1))
            payloads = started.workflow_execution_started_event_attributes.input.payloads
            if not _is_same_request(request, await self.temporal.data_converter.decode(payloads)):
                raise ClaimIdReused(
                    "this claim id is in use for a different request", remedy="claim with another one"
                ) from None
            return handle

    async def _await_answer(self, starting: asyncio.Task[WorkflowHandle[Any, Any]], id: str) -> Any:
        """Wait for the start of the workflow *id*, then for its answer."""
        return await result_of(await asyncio.shield(starting))

    async def _stop_waiting(
        self, starting: asyncio.Task[WorkflowHandle[Any, Any]], id: str, claim_ids: Sequence[str], by: str | None
    ) -> bool:
        """Stop waiting for a claim, and give it up if *by* is set.

        Giving up goes on in the background when it takes long, or when the caller is cancelled once more.

        Args:
            by: Who gives the claim up; None leaves the claim alone, for a caller who will repeat it under its id.
        Returns:
            True if it is certain that nothing is left of the claim.
        """
        if by is None:
            starting.cancel()
            return False
        giving_up = asyncio.create_task(give_up(self.temporal, id, starting, claim_ids, by))
        _GIVING_UP.add(giving_up)
        giving_up.add_done_callback(_GIVING_UP.discard)
        try:
            await asyncio.wait({giving_up}, timeout=GIVE_UP_TIMEOUT_S)
        finally:
            if not giving_up.done():
                giving_up.add_done_callback(partial(_warn_unless_given_up, claim_ids))
        return giving_up.done() and giving_up.result()


async def _cancel_to_its_end(handle: WorkflowHandle[Any, Any]) -> bool:
    """Cancel a workflow and wait until it has ended. Returns whether it was under way."""
    try:
        await handle.cancel()
    except RPCError as error:
        if no_such_workflow(error):  # it has ended, or there never was one
            return False
        raise
    with suppress(WorkflowFailureError):
        await handle.result()
    return True


def _no_answer(claim_id: str) -> StackUnreachable:
    return StackUnreachable(
        f"claim {claim_id}: neither Temporal nor a claims worker has answered in {START_TIMEOUT_S:g} s",
        {"claim_id": claim_id},
        remedy="ask again with the same id",
    )


def _warn_unless_given_up(claim_ids: Sequence[str], giving_up: asyncio.Task[bool]) -> None:
    if not giving_up.cancelled() and not giving_up.result():
        logger.warning("A claim may have won after its caller gave it up", extra={"claim_ids": claim_ids})


def _member_ids(request: ClaimTerms, claim_id: str) -> Sequence[str]:
    """Return the ids under which the database keeps the claims of *request*."""
    return [f"{claim_id}/{n}" for n in range(len(request.names))] if isinstance(request, ClaimsRequest) else [claim_id]


def new_id_unless(claim_id: str | None) -> str:
    return str(uuid4()) if claim_id is None else claim_id


def _check_is_ours(claimed: ClaimResult | None, owner: str, name: str | None) -> None:
    """Refuse a workspace that another request has claimed under the same id.

    The client of an embedded worker can receive one: it was committed while the start of the client's own request was
    in flight.
    """
    if claimed is None or claimed.name != name or not same_owner(claimed.owner, owner):
        raise ClaimIdReused("this claim id is in use for a different request", remedy="claim with another one")


def _is_same_request(request: ClaimTerms, inputs: Sequence[Any]) -> bool:
    """True if *inputs*, those of a running workflow, mean the same as *request*."""
    try:
        ours = request.same_for_all_spellings()
        return len(inputs) == 1 and parse_input(type(request), inputs[0], "claim").same_for_all_spellings() == ours
    except InvalidInput:
        return False


def _describe_names(request: ClaimTerms) -> str:
    """Return the claimed workspace's name, or the number of workspaces, for the workflow's summary."""
    if isinstance(request, ClaimsRequest):
        return f"{len(request.names)} workspaces"
    return request.name if isinstance(request, ClaimRequest) else "a workspace"


def _search_attributes(request: ClaimTerms) -> dict[str, str | None]:
    return {
        "preset": request.preset,
        "template": request.template,
        "owner": request.owner,
        "initiator": request.initiator_or_owner,
    }
