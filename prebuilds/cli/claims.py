"""`prebuilds claim` and `prebuilds release`."""

from __future__ import annotations

import asyncio
import shlex
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from prebuilds.api import PrebuildsError
from prebuilds.cli.claim_inputs import claim_parameters, pairs
from prebuilds.cli.connections import claims, operations, over_http
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, note, progress
from prebuilds.cli.system import actor, duration
from prebuilds.vocabulary.words import clock, one_line

if TYPE_CHECKING:
    from prebuilds.payloads import ClaimResult
    from prebuilds.views import AbandonResult


def claim(
    owner: Annotated[str, typer.Option(help="The workspace's new owner")],
    name: Annotated[str, typer.Option(help="The workspace's new name")],
    preset: Annotated[str | None, typer.Option(help="organization/template/preset, or an id")] = None,
    template: Annotated[
        str | None, typer.Option(help="organization/template, with --param, instead of --preset")
    ] = None,
    param: Annotated[list[str] | None, typer.Option(help="A parameter, k=v; repeat for more")] = None,
    claim_param: Annotated[
        list[str] | None,
        typer.Option(help="A claim parameter, k=v, k=@FILE or k=@- (stdin; @@ for a literal @); repeat for more"),
    ] = None,
    param_file: Annotated[
        str | None,
        typer.Option(help="A YAML or JSON file of claim parameters, - for stdin; keeps them out of the process list"),
    ] = None,
    initiator: Annotated[str | None, typer.Option(help="Who asks; by default the owner")] = None,
    claim_id: Annotated[str | None, typer.Option(help="Repeat a claim under its id to get the same answer")] = None,
    ttl: Annotated[str | None, typer.Option(help="How long a start lasts, such as 8h; 0 for no end")] = None,
    lease: Annotated[
        str | None,
        typer.Option(
            help="Release it after this time, such as 10m, unless `workspaces renew` is run before; 1m to 30d"
        ),
    ] = None,
    autostart: Annotated[str | None, typer.Option(help="Cron, such as 'CRON_TZ=Europe/Berlin 30 9 * * 1-5'")] = None,
    next_start: Annotated[str | None, typer.Option(help="The first automatic start, RFC 3339")] = None,
    on_empty: Annotated[str, typer.Option(help="When nothing is ready: fail, create or wait")] = "fail",
    timeout: Annotated[str | None, typer.Option(help="With --on-empty wait: the longest wait, such as 5m")] = None,
    on_timeout: Annotated[
        str | None, typer.Option(help="With --on-empty wait, after the timeout: fail (the default) or create")
    ] = None,
    create_owner: Annotated[
        bool, typer.Option("--create-owner", help="Make the owner a member of the organization if needed")
    ] = False,
    wait_ready: Annotated[bool, typer.Option("--wait-ready", help="Return when the owner can use it")] = False,
) -> None:
    """Claim a workspace for a person."""
    secrets = claim_parameters(claim_param, param_file)  # reads stdin; in the event loop that would block signals

    async def go() -> None:
        from prebuilds.payloads import ClaimRequest, parse_input, waits_not

        request: dict[str, Any] = {
            "preset": preset,
            "template": template,
            "parameters": pairs(param, "parameters"),
            "claim_parameters": secrets,
            "owner": owner,
            "name": name,
            "initiator": initiator,
            "autostart_schedule": autostart,
            "next_start_at": next_start,
            "ttl_seconds": None if ttl is None else duration(ttl, "ttl").total_seconds(),
            "lease_seconds": None if lease is None else duration(lease, "lease").total_seconds(),
            "on_empty": on_empty,
            "create_owner": create_owner,
        }
        waiting: dict[str, Any] = {}
        if timeout is not None:
            waiting["wait_timeout_seconds"] = duration(timeout, "timeout").total_seconds()
        if on_timeout is not None:
            waiting["on_timeout"] = on_timeout
        parsed = parse_input(ClaimRequest, request | waiting, "claim")
        if waiting and on_empty != "wait":  # only here is a typed default value distinguishable from an omitted option
            raise waits_not(next(iter(waiting)))
        id_ = str(uuid4()) if claim_id is None else claim_id
        async with claims() as client:
            with progress(f"waiting for a prebuild, claim {id_}") if on_empty == "wait" else nullcontext():
                try:
                    result = await client.claim_request(parsed, id_, abandon=claim_id is None)
                except asyncio.CancelledError as error:
                    if hasattr(error, "__notes__"):  # without a note the claim is certainly given up
                        note(_describe_unanswered(id_, "" if claim_id is not None else f" with --claim-id {id_}"))
                    raise
            if wait_ready:
                try:
                    with progress("waiting for the hand-over"):
                        result = result.model_copy(update={"address": (await client.wait_until_ready(result)).address})
                except (asyncio.CancelledError, PrebuildsError):
                    note(_describe_claim(result))  # the workspace is claimed, ready or not
                    raise
        document(result, human=_describe_claim(result))

    run_command(go())


def release(
    workspace: Annotated[str, typer.Argument(help="owner/name, or an id")],
    wait: Annotated[bool, typer.Option("--wait", help="Return when the workspace is deleted")] = False,
    abandon: Annotated[
        bool,
        typer.Option("--abandon", help="Only free its name, after a deletion has failed; what it has is left as it is"),
    ] = False,
) -> None:
    """Delete a workspace."""

    async def go() -> None:
        if abandon and wait:
            raise typer.BadParameter("--abandon deletes nothing, so there is nothing to wait for; leave --wait out")
        async with operations() as system:
            if abandon:
                given_up = await system.workspaces.abandon(actor(), workspace)
                document(given_up, human=_describe_abandoned(given_up))
                return
            done = await system.workspaces.release(actor(), workspace)
            if wait:
                with progress("waiting for the deletion"):
                    await system.workspaces.wait(done.build_id)
        document(done, human=f"{workspace} is {'gone' if wait else 'being deleted'} (build {done.build_id})")

    run_command(go())


def _describe_abandoned(done: AbandonResult) -> str:
    lines = [
        f"{done.workspace} is abandoned: its name is free, and what may be left is yours to remove",
        f"its deletion (build {done.build_id}) failed: {one_line(done.error or 'no reason given')}",
        f"what may be left{f' at host {done.host}' if done.host else ''}: {'' if done.left else 'not known'}".rstrip(),
        *(f"  {name}: {value}" for name, value in sorted(done.left.items())),
    ]
    return "\n".join(lines)


def _describe_unanswered(claim_id: str, option: str) -> str:
    """Describe a claim that may still be waiting; with *option* the same command gets its answer."""
    withdraw = _withdrawal(claim_id)
    return f"claim {claim_id} may go on: the same command{option} gets its answer, `{withdraw}` withdraws it"


def _withdrawal(claim_id: str) -> str:
    """Return the command that withdraws a claim that is still waiting."""
    if over_http():
        from prebuilds.remote.routes import encoded

        return f"DELETE /v1/claims/{encoded(claim_id)}"
    from prebuilds.vocabulary import claim_workflow_id

    return f"temporal workflow cancel --workflow-id {shlex.quote(claim_workflow_id(claim_id))}"


def _describe_claim(result: ClaimResult) -> str:
    where = f" at {result.address}" if result.address else ""
    how = "was ready" if result.miss_reason is None else f"is being created, since the pool is {result.miss_reason}"
    if result.deadline is not None:
        how = f"was paused, and should be usable by {clock(result.deadline, None)}"
    lines = [
        f"{result.owner}/{result.name} {how}{where}",
        f"workspace {result.workspace_id}, claim {result.claim_id}, build {result.build_id}",
    ]
    if result.lease_until is not None:
        renewal = f"prebuilds workspaces renew {result.owner}/{result.name}"
        lines.append(f"leased until {clock(result.lease_until, None)} or later; `{renewal}` renews it")
    return "\n".join(lines)
