"""The `terraform` driver: a workspace is one module's resources, made by OpenTofu or Terraform as a child process.

The state is saved in our database whenever it changes, so that any worker can continue where another one died. A claim
plans the module again with the new owner, reports what the plan replaces, and applies exactly that plan.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from prebuilds.api import PrebuildsError, ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import (
    InvalidSource,
    InventoryItem,
    Locality,
    NotMadeHere,
    Progress,
    Provision,
    Provisioned,
    Stopped,
)
from prebuilds.provisioners.kit.finishing import to_the_end
from prebuilds.provisioners.kit.marks import read_inventory_fields
from prebuilds.provisioners.kit.trees import CannotKeep, pack_tree
from prebuilds.provisioners.optional import Kept
from prebuilds.provisioners.terraform.check import check_module
from prebuilds.provisioners.terraform.folder import TerraformFolders
from prebuilds.provisioners.terraform.module import RunStage, load_module, read_module
from prebuilds.provisioners.terraform.run import find_binary
from prebuilds.provisioners.terraform.source import SMALL_SOURCE, invalid, parse_source
from prebuilds.provisioners.terraform.state import has_resources, resource_names, shown_outputs
from prebuilds.provisioners.terraform.work import Work
from prebuilds.vocabulary import PREBUILDS_USER

READY_POLL_S = 0.2
READY_POLL_MAX_S = 2.0
CONNECT_S = 2.0
DEFAULT_PORTS = {"http": 80, "https": 443, "ssh": 22}


class TerraformProvisioner:
    """Implements `Provisioner`, `KeepingProvisioner` and `PausingProvisioner`, where each method is described."""

    locality = Locality.SHARED
    conformance_source = SMALL_SOURCE

    def __init__(self, state_dir: Path, deployment_id: UUID) -> None:
        self._folders = TerraformFolders(state_dir.absolute(), deployment_id)

    def validate(self, source: dict[str, Any]) -> None:
        """Check the source and the module and, where this machine has a binary, have Terraform check the module."""
        parsed = parse_source(source)
        module = read_module(parsed)
        if (binary := find_binary(parsed.binary)) is not None:
            check_module(module, parsed, binary)

    def read_source_files(self, source: dict[str, Any]) -> Kept:
        """Return the source with the files of its folder; without any when the source has the files itself."""
        parsed = parse_source(source)
        module = read_module(parsed)
        if parsed.directory is None:
            return Kept(source)
        try:
            kept = pack_tree(module.tree)
        except CannotKeep as error:
            raise invalid({"source.directory": str(error)}) from error
        return Kept({**source, "directory": kept.digest}, kept)

    def check_sent(self, source: dict[str, Any]) -> None:
        """Check the source and read the module from it. Terraform itself is not run: it loads what the module names."""
        parsed = parse_source(source)
        if parsed.directory is not None:
            raise invalid(
                {"source.directory": "is a folder of the host that applies it; send the files in source.files"}
            )
        read_module(parsed)

    def hands_over(self, source: dict[str, Any]) -> bool:
        """Return True: a claim always leaves at least its mark."""
        return True

    async def plan(self, wanted: Provision) -> list[Replacement]:
        """Plan the module with the new owner, and return the resources that this replaces. Nothing is applied."""
        applies = parse_source(wanted.source).claim
        if wanted.trial and not applies:
            return []
        async with self._folders.locked(wanted.workspace_id):
            was_here = self._folders.read(wanted.workspace_id) is not None
            if not was_here and wanted.state is None and not wanted.trial:
                return []  # nothing was ever made
            work = Work(self._folders, wanted, None)
            try:
                await work.take_up()
                if not applies and not work.record.freed:
                    return []
                await work.prepare(RunStage.CLAIM)
                replacements = (await work.plan()).replacements
            finally:
                if wanted.trial and not was_here:
                    self._folders.remove(wanted.workspace_id, wanted.build_number - 1)
            return replacements if wanted.trial else work.note_replacements(replacements)

    async def apply(self, wanted: Provision, progress: Progress) -> Provisioned:
        """Plan and apply the module, and wait until its address answers."""
        async with self._folders.locked(wanted.workspace_id):
            work = Work(self._folders, wanted, progress)
            await work.take_up()
            work.keep_mark()
            is_new = work.record.made_by == wanted.build_number
            try:
                await work.prepare(RunStage.CREATE if is_new else RunStage.START)
                await work.apply(await work.plan())
                return await self._ready(work, wanted)
            except (ProvisionFailed, InvalidSource) as error:
                if is_new:
                    await self._remove(work, wanted, error)
                raise

    async def claim(self, wanted: Provision, progress: Progress) -> Provisioned:
        """Leave the mark, plan the module with the new owner, and apply that plan.

        With `claim: false`, the module is applied only where a stop has freed resources, since nothing else makes the
        workspace again before its owner gets it.
        """
        async with self._folders.locked(wanted.workspace_id):
            work = Work(self._folders, wanted, progress)
            await work.take_up()
            work.keep_mark()
            if not parse_source(wanted.source).claim and not work.record.freed:
                provisioned = await self._ready(work, wanted)
                progress(f"handed over to {wanted.owner}; the module is not applied again")
                return provisioned
            await work.prepare(RunStage.CLAIM)
            for name in sorted(set(wanted.claim_parameters) - work.module.variables):
                progress(f"the module declares no variable {name}: the claim's parameter reaches nothing")
            planned = await work.plan(reuse=True)
            work.note_replacements(planned.replacements)
            await work.apply(planned)
            provisioned = await self._ready(work, wanted)
        progress(f"handed over to {wanted.owner}")
        return provisioned

    async def stop(self, wanted: Provision, progress: Progress) -> Stopped | None:
        """Record that the workspace is stopped. Its resources stay, unless its module declares `prebuilds_start_count`:
        then the module is applied with the stage `stop`."""
        return await self._put_away(wanted, progress, RunStage.STOP)

    def pauses(self, source: dict[str, Any]) -> bool:
        """Return whether the module declares `prebuilds_start_count`, with which it can remove costly resources."""
        return read_module(parse_source(source)).frees_when_stopped

    async def pause(self, wanted: Provision, progress: Progress) -> Stopped | None:
        """Apply the module with the stage `paused` and `prebuilds_start_count = 0`.

        Raises:
            ProvisionFailed: The module cannot be paused, or would replace a resource. Nothing was changed.
        """
        return await self._put_away(wanted, progress, RunStage.PAUSED)

    async def resume(self, wanted: Provision, progress: Progress) -> Provisioned:
        """Apply the module with the stage `start`, and wait until its address answers."""
        return await self.apply(wanted, progress)

    async def _put_away(self, wanted: Provision, progress: Progress, stage: RunStage) -> Stopped | None:
        """Remove the resources that depend on `prebuilds_start_count`, and record that the workspace does not run."""
        stopped = None
        async with self._folders.locked(wanted.workspace_id):
            record = self._folders.enter(wanted)
            if record is not None or wanted.state is not None:
                stopped = await self._free(wanted, progress, stage)
                record = self._folders.read(wanted.workspace_id)
            if record is not None:
                update = {"build_number": wanted.build_number, "address": None, "served": False, "stopped": True}
                self._folders.write(wanted.workspace_id, record.model_copy(update=update))
            else:
                self._folders.note(wanted.workspace_id, wanted.build_number)
        return stopped

    async def _free(self, wanted: Provision, progress: Progress, stage: RunStage) -> Stopped | None:
        """Apply the module with the stage, if it declares `prebuilds_start_count` and nothing would be replaced.

        The state may have other values than this stop: those of the prebuild, if no claim has applied the module since.
        Then the plan may replace a resource to be kept, such as a disk that names its owner.

        Raises:
            ProvisionFailed: A pause cannot remove anything. In that case a stop keeps everything and succeeds.
        """
        pauses = stage is RunStage.PAUSED
        try:
            module = await asyncio.to_thread(load_module, parse_source(wanted.source), wanted.files)
        except ProvisionFailed as error:
            if pauses:
                raise
            progress(f"all resources stay: {error}")
            return None
        if not module.frees_when_stopped:
            if pauses:
                raise ProvisionFailed("the module declares no prebuilds_start_count, so it cannot be paused")
            progress("all resources stay: the module declares no prebuilds_start_count. A start applies it again")
            return None
        if wanted.claim_parameters_withheld:
            # Without the claim's values, the plan could replace what is to be kept.
            progress("all resources stay: this worker has no key for the claim's parameters, which the module may need")
            return None
        work = Work(self._folders, wanted, progress)
        await work.take_up()
        work.keep_mark()
        if not has_resources(work.state):
            return None
        await work.prepare(stage)
        planned = await work.plan()
        if planned.replacements:
            work.discard_plan()
            if pauses:
                names = ", ".join(one.resource for one in planned.replacements)
                raise ProvisionFailed(f"a pause replaces nothing, and this one would have to replace {names}")
            progress("all resources stay: a stop replaces nothing, and this one would have had to")
            for one in planned.replacements:
                progress(f"replace {one.resource}, forced by {', '.join(one.paths) or 'its plan'}")
            return Stopped(resources=_shown(work), kept=planned.replacements)
        work.note_freeing()
        await work.apply(planned)
        return Stopped(resources=_shown(work))

    async def destroy(self, wanted: Provision, progress: Progress) -> None:
        """Destroy every resource, and remove the folder."""
        async with self._folders.locked(wanted.workspace_id):
            work = Work(self._folders, wanted, progress)
            await work.take_up()
            if has_resources(work.state):
                await work.prepare(RunStage.CREATE if wanted.owner == PREBUILDS_USER else RunStage.START)
                await work.destroy()
            await to_the_end(asyncio.to_thread(self._folders.remove, wanted.workspace_id, wanted.build_number))

    async def probe(self, workspace_id: UUID) -> bool:
        """Return whether the workspace has resources and its address answers.

        Raises:
            NotMadeHere: Another host has made the workspace, or has finished a build that this one began.
        """
        record, state = self._folders.read(workspace_id), self._folders.read_state(workspace_id)
        is_ours = record is not None and record.deployment_id == self._folders.deployment_id
        if record is None or state is None or not (is_ours and record.served):
            raise NotMadeHere(f"this host did not create workspace {workspace_id} and cannot probe it")
        return has_resources(state) and await answers(record.address)

    async def inventory(self) -> list[InventoryItem]:
        """List the workspaces with a folder on this host."""
        items = await asyncio.to_thread(self._items)  # a state file may have several megabytes
        await asyncio.to_thread(self._folders.forget_old)
        return items

    def _items(self) -> list[InventoryItem]:
        items = []
        for workspace_id in self._folders.all():
            record = self._folders.read(workspace_id)
            if record is not None and record.deployment_id == self._folders.deployment_id:
                items.append(
                    InventoryItem(
                        workspace_id=workspace_id,
                        build_number=record.build_number,
                        running=not record.stopped and has_resources(self._folders.read_state(workspace_id)),
                        created_at=record.made_at,
                        epoch=record.epoch,
                        **read_inventory_fields(self._folders.folder(workspace_id)),
                    )
                )
        return items

    async def _ready(self, work: Work, wanted: Provision) -> Provisioned:
        """Return what was made, once its address answers.

        Raises:
            ProvisionFailed: It did not answer within `ready_timeout_s`, or the address output has no usable value.
        """
        state = work.state or ""
        outputs, source = shown_outputs(state), parse_source(wanted.source)
        address = outputs.get(source.address_output)
        if address is not None and not isinstance(address, str):
            raise ProvisionFailed(f"the output {source.address_output} must be a text, the workspace's address")
        if address is None and source.address is not None:
            raise ProvisionFailed(f"the output {source.address} has no value to show, or is sensitive")
        probed = address if source.reachable else None
        clock = asyncio.get_running_loop().time
        deadline, pause = clock() + wanted.ready_timeout_s, READY_POLL_S
        while not await answers(probed):
            if clock() > deadline:
                raise ProvisionFailed(f"{address} did not answer within {wanted.ready_timeout_s:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, READY_POLL_MAX_S)
        work.keep_address(probed)
        return Provisioned(address=address, resources=_shown(work), state=work.packed(state))

    async def _remove(self, work: Work, wanted: Provision, error: Exception) -> None:
        """Destroy what a failed creation made.

        Raises:
            ProvisionFailed: Some resources could not be destroyed. They stay until the workspace is deleted.
        """
        if not work.is_prepared and has_resources(work.state):
            return  # an earlier attempt made it, and this one has no prepared module to destroy it with
        try:
            await work.destroy()
        except ProvisionFailed as left:
            message = error.message if isinstance(error, PrebuildsError) else str(error)
            raise ProvisionFailed(f"{message}; and what it had made could not be removed: {left.message}") from error
        await to_the_end(asyncio.to_thread(self._folders.remove, wanted.workspace_id, wanted.build_number - 1))


def _shown(work: Work) -> dict[str, Any]:
    """Return what people are shown of a workspace: its folder, its resources, and its outputs."""
    state = work.state or ""
    outputs = shown_outputs(state)
    shown = {name: outputs[name] for name in (work.source.outputs or outputs) if name in outputs}
    return {"folder": str(work.folder), "resources": resource_names(state), **shown}


def endpoint_of(address: str) -> tuple[str, int] | None:
    """Return host and port of a URL or of `host:port`; None for anything else."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        port = parts.port if parts.port is not None else DEFAULT_PORTS.get(parts.scheme)
        return (parts.hostname, port) if parts.hostname and port else None
    except ValueError:
        return None


async def answers(address: str | None) -> bool:
    """Return whether the address accepts connections. True for None, and for an address that names no port."""
    endpoint = endpoint_of(address) if address is not None else None
    if endpoint is None:
        return True
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(*endpoint), CONNECT_S)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
