"""The client library over HTTP, for services that cannot reach Temporal."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from prebuilds.client import PrebuildsClient
from prebuilds.client.claims import new_id_unless
from prebuilds.client.durations import seconds_of
from prebuilds.payloads import (
    ClaimId,
    ClaimRequest,
    ClaimResult,
    ClaimsRequest,
    ClaimsResult,
    OperatorRequest,
    OrchestratorStatus,
    Payload,
    ReleaseResult,
    WorkspaceBuildResult,
)
from prebuilds.remote import routes
from prebuilds.remote.claims import RemoteClaims
from prebuilds.remote.routes import Route
from prebuilds.remote.transport import Transport, open_transport
from prebuilds.views import (
    AbandonResult,
    DrillPage,
    DrillRow,
    LeaseRenewal,
    LeavingResult,
    LintReport,
    LoopChange,
    MembersResult,
    Reconciled,
    StatusPage,
    TransferResult,
    WorkspaceChange,
    WorkspaceDetails,
    WorkspacePage,
    WorkspaceSettings,
)

ACTIONS: Mapping[str, tuple[Route, type[Payload]]] = {
    "status": (routes.STATUS, StatusPage),
    "start": (routes.START_LOOP, LoopChange),
    "stop": (routes.STOP_LOOP, LoopChange),
    "pause": (routes.PAUSE_LOOP, LoopChange),
    "resume": (routes.RESUME_LOOP, LoopChange),
    "list_workspaces": (routes.LIST_WORKSPACES, WorkspacePage),
    "show_workspace": (routes.SHOW_WORKSPACE, WorkspaceDetails),
    "release": (routes.RELEASE_WORKSPACE, ReleaseResult),
    "abandon": (routes.ABANDON_WORKSPACE, AbandonResult),
    "start_workspace": (routes.START_WORKSPACE, WorkspaceChange),
    "stop_workspace": (routes.STOP_WORKSPACE, WorkspaceChange),
    "retry": (routes.RETRY_WORKSPACE, WorkspaceChange),
    "set": (routes.SET_WORKSPACE, WorkspaceSettings),
    "renew": (routes.RENEW_LEASE, LeaseRenewal),
    "transfer": (routes.TRANSFER_WORKSPACE, TransferResult),
    "add_members": (routes.ADD_MEMBERS, MembersResult),
    "remove_members": (routes.REMOVE_MEMBERS, LeavingResult),
    "disable_users": (routes.DISABLE_USERS, LeavingResult),
    "enable_users": (routes.ENABLE_USERS, LeavingResult),
    "run_drill": (routes.RUN_DRILL, DrillRow),
    "list_drills": (routes.LIST_DRILLS, DrillPage),
    "show_drill": (routes.SHOW_DRILL, DrillRow),
}
"""Action of an `OperatorRequest` -> the route that does the same, and its answer."""


class HttpClient(PrebuildsClient):
    """`PrebuildsClient` over HTTP: the same methods, records and errors. It has no attribute `temporal`.

    The record of who asks comes from the token: the argument `by` has no effect. A lost connection, and a server that
    is away or has too much to do, are retried; a claim under its id. Close the client, or use it as `async with`.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._claims = RemoteClaims(transport)

    def __repr__(self) -> str:
        return f"<PrebuildsClient of {self._transport.server.url}>"

    async def close(self) -> None:
        await self._transport.close()

    async def _operate(self, request: OperatorRequest) -> Any:
        route, answer = ACTIONS[request.action]
        arguments = {name: getattr(request, name, None) for name in route.arguments}
        if request.action == "stop":
            arguments["cause"] = request.reason or "no cause given"
        return (await self._transport.ask(route, answer, **arguments)).model_dump(mode="json")

    async def claim_request(self, request: ClaimRequest, claim_id: str, *, abandon: bool = False) -> ClaimResult:
        return await self._claims.claim_request(request, claim_id, abandon=abandon)

    async def claim_all(self, request: ClaimsRequest, claim_id: ClaimId | None = None) -> ClaimsResult:
        return await self._claims.claim_all(request, new_id_unless(claim_id), abandon=claim_id is None)

    async def start_claim(self, request: ClaimRequest, claim_id: str) -> str:
        """Send a claim, and do not wait for a prebuild. A refusal is raised. Returns "": the claim has no run that is
        known here."""
        await self._claims.start_claim(request, claim_id)
        return ""

    async def leave_queue(self, claim_id: str, workflow_id: str | None = None) -> bool:
        return await self._claims.leave_queue(claim_id)

    async def wait_until_ready(
        self, build: ClaimResult | UUID, timeout: timedelta | None = None
    ) -> WorkspaceBuildResult:
        return await self._claims.wait_until_ready(build, seconds_of("timeout", timeout))

    async def lint_preset(self, preset: str) -> LintReport:
        return await self._transport.ask(routes.LINT_PRESET, LintReport, preset=preset)

    async def reconcile(self, presets: Sequence[UUID] = ()) -> None:
        await asyncio.gather(*(self._pass_over(preset) for preset in presets or (None,)))

    async def _pass_over(self, preset: UUID | None) -> None:
        done = Reconciled(reconciled=False)
        while not done.reconciled:  # the server answers after a minute at most
            done = await self._transport.ask(routes.RECONCILE, Reconciled, preset=_text(preset), wait=True)

    async def nudge(self, presets: Sequence[UUID] = ()) -> None:
        for preset in presets or (None,):
            await self._transport.ask(routes.RECONCILE, Reconciled, preset=_text(preset))

    async def loop(self) -> OrchestratorStatus:
        return await self._transport.ask(routes.GET_LOOP, OrchestratorStatus)


async def connect_http(url: str, token: str | None, *, name: str) -> HttpClient:
    """Connect to the server at *url*. Arguments and errors are those of `open_transport`."""
    return HttpClient(await open_transport(url, token, name=name))


def _text(preset: UUID | None) -> str | None:
    return None if preset is None else str(preset)
