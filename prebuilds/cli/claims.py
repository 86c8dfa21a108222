"""Claim a workspace, and let it go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from prebuilds.api import InvalidInput, WorkspaceBuildFailed
from prebuilds.cli.connections import operations, prebuilds_client
from prebuilds.cli.output import document, progress
from prebuilds.cli.system import duration

if TYPE_CHECKING:
    from uuid import UUID

    from temporalio.client import Client

    from prebuilds.payloads import ClaimResult


def claim(
    owner: Annotated[str, typer.Option(help="Who gets it")],
    name: Annotated[str, typer.Option(help="What they call it")],
    preset: Annotated[str | None, typer.Option(help="organization/template/preset, or an id")] = None,
    template: Annotated[
        str | None, typer.Option(help="organization/template, with --param, in place of --preset")
    ] = None,
    param: Annotated[list[str] | None, typer.Option(help="A parameter, k=v; repeat for more")] = None,
    claim_param: Annotated[list[str] | None, typer.Option(help="A claim parameter, k=v; repeat for more")] = None,
    initiator: Annotated[str | None, typer.Option(help="Who asks; the owner unless said")] = None,
    claim_id: Annotated[str | None, typer.Option(help="Repeat a claim under its id to get the same answer")] = None,
    ttl: Annotated[str | None, typer.Option(help="How long a start lasts, such as 8h; 0 for no end")] = None,
    autostart: Annotated[str | None, typer.Option(help="Cron, such as 'CRON_TZ=Europe/Berlin 30 9 * * 1-5'")] = None,
    next_start: Annotated[str | None, typer.Option(help="The first automatic start, RFC 3339")] = None,
    on_empty: Annotated[str, typer.Option(help="When nothing is ready: fail or create")] = "fail",
    wait_ready: Annotated[bool, typer.Option("--wait-ready", help="Return when it is handed over")] = False,
) -> None:
    """Claim a workspace for a person."""

    async def go() -> None:
        from prebuilds.payloads import ClaimRequest, parse_input

        request: dict[str, Any] = {
            "preset": preset,
            "template": template,
            "parameters": _pairs(param, "parameters"),
            "claim_parameters": _pairs(claim_param, "claim_parameters"),
            "owner": owner,
            "name": name,
            "initiator": initiator,
            "autostart_schedule": autostart,
            "next_start_at": next_start,
            "ttl_seconds": None if ttl is None else duration(ttl, "ttl").total_seconds(),
            "on_empty": on_empty,
        }
        asked = parse_input(ClaimRequest, request, "claim")
        client = await prebuilds_client()
        result = await client.claim_request(asked, claim_id or str(uuid4()))
        if wait_ready:
            with progress("waiting for the hand-over"):
                await _wait_for_build(client.temporal, result.build_id)
                async with operations() as system:
                    result = result.model_copy(
                        update={"address": (await system.show_workspace(str(result.workspace_id))).address}
                    )
        document(result, human=_told(result))

    asyncio.run(go())


def release(
    workspace: Annotated[str, typer.Argument(help="owner/name, or an id")],
    wait: Annotated[bool, typer.Option("--wait", help="Return when it is gone")] = False,
) -> None:
    """Delete a workspace."""

    async def go() -> None:
        async with operations() as system:
            done = await system.release(workspace)
            if wait:
                with progress("waiting for the deletion"):
                    await system.dispatcher.drain()
                    await _wait_for_build(system.client, done.build_id)
        document(done, human=f"{workspace} is {'gone' if wait else 'being deleted'} (build {done.build_id})")

    asyncio.run(go())


async def _wait_for_build(client: Client, build_id: UUID) -> None:
    """Raises:
    WorkspaceBuildFailed: It has ended otherwise than well.
    """
    from prebuilds.client import start_short
    from prebuilds.payloads import CONTROL_QUEUE, BuildStatus, WorkspaceBuildInput, build_workflow_id
    from prebuilds.payloads import WorkspaceBuildResult as Result

    # Attaches to the one that runs; one that was not started yet is started, and one that has ended says how.
    handle = await start_short(
        client,
        "WorkspaceBuild",
        WorkspaceBuildInput(build_id=build_id),
        id=build_workflow_id(build_id),
        task_queue=CONTROL_QUEUE,
    )
    result = Result.model_validate(await handle.result())
    if result.status is not BuildStatus.SUCCEEDED:
        raise WorkspaceBuildFailed(
            f"build {build_id} has {result.status}: {result.error}", {"build_id": str(build_id), "error": result.error}
        )


def _pairs(given: list[str] | None, field: str) -> dict[str, str]:
    pairs = {}
    for item in given or []:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise InvalidInput.field(field, f"{item} must be written k=v")
        pairs[key] = value
    return pairs


def _told(result: ClaimResult) -> str:
    where = f" at {result.address}" if result.address else ""
    how = "was ready" if result.miss_reason is None else f"is being created, since the pool is {result.miss_reason}"
    return (
        f"{result.owner}/{result.name} {how}{where}\n"
        f"workspace {result.workspace_id}, claim {result.claim_id}, build {result.build_id}"
    )
