"""Claims as a service makes them: started, attached to, waited for, given up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import zip_longest
from typing import Any, Literal
from uuid import uuid4

from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import WorkflowAlreadyStartedError

from prebuilds.api import ClaimIdReused, InvalidInput, RequestCanceled, StackUnreachable, StoreUnavailable
from prebuilds.client.durations import seconds_of
from prebuilds.client.leaving import give_up
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
"""For a claim's answer, beside the time that it may wait. It is decided in milliseconds, and fails within 10 s when the
database is away: longer than this only without a worker. An execution timeout would cost each claim a timer."""
GIVE_UP_TIMEOUT_S = 5.0
"""For the caller to wait until a claim is given up; one who has gone does not wait long for a server that is away."""
_GIVING_UP: set[asyncio.Task[bool]] = set()
"""The event loop itself holds its tasks only weakly."""


class ClaimsClient:
    """The part of `PrebuildsClient` that claims."""

    def __init__(self, client: Client) -> None:
        """*client* must use pydantic's data converter; `connect` gives such a one."""
        self.temporal = client

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
        claim_parameters: Mapping[str, str] | None = None,
        on_empty: OnEmpty = OnEmpty.FAIL,
        wait_timeout: timedelta | None = None,
        on_timeout: Literal["fail", "create"] = "fail",
        create_owner: bool = False,
        claim_id: ClaimId | None = None,
    ) -> ClaimResult:
        """Claim a workspace for a person.

        Args:
            owner: Who gets it.
            name: What they call it; unique among theirs.
            preset: An id, or `organization/template/preset`.
            template: `organization/template`, with *parameters*, in place of *preset*.
            initiator: Who asks; the owner unless said. Never `prebuilds`.
            ttl: How long a start lasts; None for the template's, zero for no end.
            on_empty: What to do when nothing is ready: fail, create an ordinary workspace, or wait for a prebuild.
            wait_timeout: How long to wait at most; None for five minutes.
            on_timeout: What to do when the wait was in vain.
            create_owner: Make an unknown owner, or one who is no member, a member in the claim's own transaction; never
                one who was removed or disabled.
            claim_id: Repeat a claim under its id to get the same answer; a new one unless said. Then a caller who is
                cancelled, such as by a timeout, or who gets no answer from Temporal, gives the claim up: it is
                cancelled, and what it has won all the same is released.
        Raises:
            StackUnreachable: Temporal, or no worker, has answered; safe to try again with the same id, which the
                message and the details' `claim_id` say.
            asyncio.CancelledError: With a note of the claim's id when it may go on, or have won.
            PrebuildsError: By its type: `NoClaimablePrebuiltWorkspaces`, `NameTaken`, `InvalidInput`, ...
        """
        request = {
            "preset": preset,
            "template": template,
            "parameters": dict(parameters or {}),
            "owner": owner,
            "name": name,
            "initiator": initiator,
            "autostart_schedule": autostart_schedule,
            "next_start_at": next_start_at,
            "ttl_seconds": seconds_of("ttl", ttl),
            "claim_parameters": dict(claim_parameters or {}),
            "on_empty": on_empty,
            "on_timeout": on_timeout,
            "create_owner": create_owner,
        }
        if wait_timeout is not None:
            request["wait_timeout_seconds"] = seconds_of("wait_timeout", wait_timeout)
        asked = parse_input(ClaimRequest, request, "claim")
        return await self.claim_request(asked, _new_id_unless(claim_id), abandon=claim_id is None)

    async def claim_request(self, request: ClaimRequest, claim_id: str, *, abandon: bool = False) -> ClaimResult:
        """Claim as *request* says, under *claim_id*.

        Args:
            abandon: Whether the claim is given up, and what it has won released, when the caller goes away, or neither
                Temporal nor a worker answers, since nobody will come back with its id.
        """
        workflow_id = claim_workflow_id(parse_claim_id(claim_id))
        claiming = self._claim("ClaimWorkspace", request, workflow_id, claim_id, abandon)
        result = ClaimResult.model_validate(await claiming)
        _check_meant(result, request.owner, request.name)
        return result

    async def claim_all(self, request: ClaimsRequest, claim_id: ClaimId | None = None) -> ClaimsResult:
        """Claim a workspace for each of the request's names, all in one transaction or none.

        Raises:
            PrebuildsError: As for one claim; then there is none of them.
        """
        id_ = parse_claim_id(_new_id_unless(claim_id), members=len(request.names))
        claiming = self._claim("ClaimWorkspaces", request, f"claim-workspaces/{id_}", id_, claim_id is None)
        result = ClaimsResult.model_validate(await claiming)
        for claim, name in zip_longest(result.claims, request.names):
            _check_meant(claim, request.owner, name)
        return result

    async def _claim(self, workflow: str, request: ClaimTerms, id: str, claim_id: str, abandon: bool) -> Any:
        # On its own: who goes away meanwhile must know what to give up.
        starting = asyncio.create_task(reached(self._start_claim(workflow, request, id)))
        waits = request.on_empty is OnEmpty.WAIT
        bound_s = ANSWER_TIMEOUT_S + (request.wait_timeout_seconds if waits else 0)
        leave = partial(
            self._leave, starting, id, _member_ids(request, claim_id), request.asked_by if abandon else None
        )
        known = {"claim_id": claim_id}
        try:
            async with asyncio.timeout(bound_s) as bound:
                return await self._answer(starting, id)
        except TimeoutError as error:
            if not bound.expired():
                raise
            raise StackUnreachable(
                f"no worker has answered claim {claim_id} in {bound_s:g} s; start `prebuilds worker --role claims`, "
                f"and {_again(given_up=await leave())}",
                known,
            ) from error
        except asyncio.CancelledError as error:
            if not await leave():
                error.add_note(f"claim {claim_id} may go on, or have won: its answer is there under this id")
            raise
        except StackUnreachable as error:  # what has been lost may be the reply: then the claim goes on
            told = f"claim {claim_id}: {error}; {_again(given_up=await leave())}"
            raise StackUnreachable(told, {**error.details, **known}) from error
        # Its id is all that finds out what is recorded; or, for a caller without the key, what was answered.
        except (StoreUnavailable, RequestCanceled, PayloadKeyUnusable) as error:
            raise type(error)(f"claim {claim_id}: {error}", {**error.details, **known}) from error

    async def _start_claim(self, workflow: str, request: ClaimTerms, id: str) -> WorkflowHandle[Any, Any]:
        """Start a claim; or attach to the one that is under way, when it asks for the same.

        Raises:
            ClaimIdReused: It asks for something else. The database says so of those that have won.
        """
        try:
            return await start_short(
                self.temporal,
                workflow,
                request.model_dump(mode="json", exclude_defaults=True),
                id=id,
                task_queue=CLAIMS_QUEUE,
                search=_attributes(request),
                summary=f"{request.owner} claims {_names(request)} of {request.preset or request.template}",
                eager=True,
                attach=False,
            )
        except WorkflowAlreadyStartedError as error:
            handle = self.temporal.get_workflow_handle(id, run_id=error.run_id)
            begun = await anext(handle.fetch_history_events(page_size=1))
            given = begun.workflow_execution_started_event_attributes.input.payloads
            if not _asks_for(request, await self.temporal.data_converter.decode(given)):
                raise ClaimIdReused("this claim id is in use for a different request; claim with another one") from None
            return handle

    async def _answer(self, starting: asyncio.Task[WorkflowHandle[Any, Any]], id: str) -> Any:
        """What a claim's workflow answers, once it is started."""
        return await result_of(await asyncio.shield(starting))

    async def _leave(
        self, starting: asyncio.Task[WorkflowHandle[Any, Any]], id: str, claim_ids: Sequence[str], by: str | None
    ) -> bool:
        """Leave a claim that nobody waits for any longer.

        Args:
            by: Who gives it up, as nobody can come back for it; None leaves it as it is, for who has its id.
        Returns:
            Whether nothing is left of it. That goes on in the background when it takes long, or the caller does not
            even wait for this.
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
                giving_up.add_done_callback(partial(_tell_late, claim_ids))
        return giving_up.done() and giving_up.result()


def _tell_late(claim_ids: Sequence[str], giving_up: asyncio.Task[bool]) -> None:
    if not giving_up.cancelled() and not giving_up.result():
        logger.warning("A claim that its caller has given up may have won", extra={"claim_ids": claim_ids})


def _member_ids(request: ClaimTerms, claim_id: str) -> Sequence[str]:
    """The ids under which the database keeps what is asked for by *claim_id*."""
    return [f"{claim_id}/{n}" for n in range(len(request.names))] if isinstance(request, ClaimsRequest) else [claim_id]


def _again(*, given_up: bool) -> str:
    return "claim again" if given_up else "claim again with the same id"  # which finds the answer, if there is one


def _new_id_unless(claim_id: str | None) -> str:
    return str(uuid4()) if claim_id is None else claim_id


def _check_meant(claimed: ClaimResult | None, owner: str, name: str | None) -> None:
    """Refuse what is somebody else's: beside the worker, it may be told while another request under its id starts."""
    if claimed is None or claimed.name != name or not same_owner(claimed.owner, owner):
        raise ClaimIdReused("this claim id is in use for a different request; claim with another one")


def _asks_for(request: ClaimTerms, given: Sequence[Any]) -> bool:
    """Whether a workflow with the inputs *given* makes this very claim."""
    try:
        asked = request.same_for_all_spellings()
        return len(given) == 1 and parse_input(type(request), given[0], "claim").same_for_all_spellings() == asked
    except InvalidInput:
        return False


def _names(request: ClaimTerms) -> str:
    """What the claimed workspace is called, or how many are claimed."""
    if isinstance(request, ClaimsRequest):
        return f"{len(request.names)} workspaces"
    return request.name if isinstance(request, ClaimRequest) else "a workspace"


def _attributes(request: ClaimTerms) -> dict[str, str | None]:
    return {
        "preset": request.preset,
        "template": request.template,
        "owner": request.owner,
        "initiator": request.asked_by,
    }
