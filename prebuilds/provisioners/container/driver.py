"""The `container` driver: a workspace is a container with volumes of its own, on an engine that speaks Docker's API.

DOCKER_HOST names the engine. Each workspace has one container name, so that the same call twice makes one container.
Labels separate deployments, and an empty volume keeps the mark of a claim. The template resolves to a specification
for one owner. When a claim changes a part that only a new container can have, the container is replaced, its volumes
stay, and the plan reports it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID

from prebuilds.api import ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import (
    InvalidSource,
    InventoryItem,
    Locality,
    OwnedByAnother,
    Progress,
    Provision,
    Provisioned,
)
from prebuilds.provisioners.container.binds import check_links
from prebuilds.provisioners.container.claim import check_hand_over, hand_over, tail_of
from prebuilds.provisioners.container.engine import Engine
from prebuilds.provisioners.container.engines import Engines
from prebuilds.provisioners.container.items import list_items
from prebuilds.provisioners.container.making import ensure_image, make_container
from prebuilds.provisioners.container.mark import (
    OWNER_LABEL,
    check_labels,
    check_owner,
    leave_owner,
    mark_volume,
)
from prebuilds.provisioners.container.masking import masked
from prebuilds.provisioners.container.ready import is_ready
from prebuilds.provisioners.container.record import Seen
from prebuilds.provisioners.container.source import SMALL_SOURCE, ContainerSource, parse_source
from prebuilds.provisioners.container.spec import (
    BUILD_LABEL,
    DEPLOYMENT_LABEL,
    WORKSPACE_LABEL,
    container_name,
    resolve,
    values_of,
)
from prebuilds.provisioners.container.state import Container
from prebuilds.provisioners.kit.finishing import to_the_end
from prebuilds.provisioners.kit.marks import Mark
from prebuilds.provisioners.kit.placeholders import fill
from prebuilds.provisioners.optional import CheckEnded

POLL_S = 0.05
POLL_MAX_S = 1.0
LOG_TAIL_LINES = 15

T = TypeVar("T")


class ContainerProvisioner:
    """Implements `Provisioner`, `PausingProvisioner` and `CheckingProvisioner`, where each method is described."""

    conformance_source = SMALL_SOURCE

    def __init__(self, state_dir: Path, deployment_id: UUID) -> None:
        self._deployment_id = deployment_id
        self._engines = Engines()
        self._seen = Seen(state_dir.absolute())
        self.locality = Locality.HOST if self._engines.is_local else Locality.SHARED

    def validate(self, source: dict[str, Any]) -> None:
        """Check the source. The engine is not called."""
        parse_source(source)

    def hands_over(self, source: dict[str, Any]) -> bool:
        """Return True: a claim always leaves at least its mark."""
        return True

    @masked
    async def plan(self, wanted: Provision) -> list[Replacement]:
        """Return the container when a claim has to replace it, with the fields that force that."""
        name = self._name(wanted.workspace_id)
        async with self._engines.open() as engine:
            before = await self._find(engine, wanted.workspace_id)
            if not wanted.trial:
                await self._check_mark(engine, wanted)
        paths = set(_replaced(wanted))
        if before is not None:
            spec = resolve(parse_source(wanted.source), wanted)
            paths.update(spec.differs_from(before.labels))
        return [Replacement(resource=name, paths=sorted(paths))] if paths else []

    @masked
    async def apply(self, wanted: Provision, progress: Progress) -> Provisioned:
        """Pull the image, make the container and its volumes, start it, and wait until it is ready."""
        source = parse_source(wanted.source)
        async with self._seen.locked(wanted.workspace_id), self._engines.open() as engine:
            before, mark = await self._enter(engine, wanted)
            await leave_owner(engine, wanted, mark)
            self._seen.keep_mark(wanted)
            try:
                container = await self._ensure_runs(engine, source, wanted, before, progress)
                container = await self._wait_ready(engine, wanted)
                await (hand_over if wanted.claimed else check_hand_over)(engine, source, container, wanted)
            except (ProvisionFailed, InvalidSource, OwnedByAnother, asyncio.CancelledError):
                await to_the_end(self._undo(engine, wanted, progress))
                raise
        progress(f"container {container.name} is ready")
        return self._provisioned(source, wanted, container)

    @masked
    async def claim(self, wanted: Provision, progress: Progress) -> Provisioned:
        """Leave the mark, replace the container where the new owner requires it, and hand it over."""
        source = parse_source(wanted.source)
        async with self._seen.locked(wanted.workspace_id), self._engines.open() as engine:
            before, mark = await self._enter(engine, wanted)
            await leave_owner(engine, wanted, mark)
            self._seen.keep_mark(wanted)
            container = await self._ensure_runs(engine, source, wanted, before, progress)
            container = await self._wait_ready(engine, wanted)
            if source.claim is not None:
                await hand_over(engine, source, container, wanted)
                container = await self._wait_ready(engine, wanted)  # the claim's command may restart it
        progress(f"handed over to {wanted.owner}")
        return self._provisioned(source, wanted, container)

    async def stop(self, wanted: Provision, progress: Progress) -> None:
        """Stop the container; keep it with its volumes."""
        async with self._seen.locked(wanted.workspace_id), self._engines.open() as engine:
            container, _ = await self._enter(engine, wanted)
            if container is not None and container.running:
                await engine.stop(container)
                progress(f"container {container.name} is stopped")

    def pauses(self, source: dict[str, Any]) -> bool:
        """Return True: a paused workspace is a stopped container with its volumes."""
        return True

    async def pause(self, wanted: Provision, progress: Progress) -> None:
        """Stop the container, and keep it with its volumes. `docker pause` would keep its memory in use."""
        await self.stop(wanted, progress)

    async def resume(self, wanted: Provision, progress: Progress) -> Provisioned:
        """Start the container, unless it runs, and wait until it is ready."""
        return await self.apply(wanted, progress)

    async def destroy(self, wanted: Provision, progress: Progress) -> None:
        """Remove the container and its volumes, the mark last."""
        async with self._seen.locked(wanted.workspace_id), self._engines.open() as engine:
            container, _ = await self._enter(engine, wanted)
            if container is not None:
                if container.running:
                    await engine.stop(container)
                await engine.remove(container.name)
                progress(f"container {container.name} is removed")
            await self._remove_volumes(engine, wanted.workspace_id)
            self._seen.forget_mark(wanted.workspace_id)

    async def probe(self, workspace_id: UUID) -> bool:
        """Return whether the container runs and its readiness check succeeds."""
        async with self._engines.open() as engine:
            container = await self._find(engine, workspace_id)
            return container is not None and await is_ready(self._engines, engine, container)

    async def run_check(
        self, workspace_id: UUID, words: Sequence[str], env: Mapping[str, str], timeout_s: float
    ) -> CheckEnded:
        """Run a command in the container, as its user. A command that takes too long runs until the container is
        removed, since engines cannot stop it."""
        async with self._engines.open() as engine:
            container = await self._find(engine, workspace_id)
            if container is None or not container.running:
                raise ProvisionFailed(f"the container {self._name(workspace_id)} does not run")
            try:
                code, output = await engine.run(container.name, words, env=env, timeout_s=timeout_s)
            except InvalidSource as error:
                raise ProvisionFailed(f"{words[0]} cannot be started in the workspace: {error.message}") from error
            return CheckEnded(code, output)

    async def inventory(self) -> list[InventoryItem]:
        """List the engine's containers and volumes with this deployment's label."""
        async with self._engines.open() as engine:
            return await list_items(engine, self._deployment_id, self._seen)

    # --- One workspace, under its lock ---

    def _name(self, workspace_id: UUID) -> str:
        return container_name(self._deployment_id, workspace_id)

    def _labels(self, workspace_id: UUID) -> dict[str, str]:
        """Return the labels of everything that belongs to this workspace."""
        return {WORKSPACE_LABEL: str(workspace_id), DEPLOYMENT_LABEL: str(self._deployment_id)}

    async def _find(self, engine: Engine, workspace_id: UUID) -> Container | None:
        """Return the workspace's container; None when there is none.

        Raises:
            OwnedByAnother: A container of that name belongs to another deployment, or carries no deployment's label.
        """
        name = self._name(workspace_id)
        found = await engine.find(name)
        if found is not None:
            check_labels(f"container {name}", found.labels, self._labels(workspace_id))
        return found

    async def _enter(self, engine: Engine, wanted: Provision) -> tuple[Container | None, Mark | None]:
        """Return the workspace's container and its mark, each None when there is none, and note the build.

        Raises:
            OwnedByAnother: One of them does not fit this call.
            StaleBuild: A later build was here.
        """
        found = await self._find(engine, wanted.workspace_id)
        mark = await self._check_mark(engine, wanted)
        made_by = int(found.labels[BUILD_LABEL]) if found is not None else 0
        self._seen.enter(wanted.workspace_id, wanted.build_number, made_by)
        return found, mark

    async def _check_mark(self, engine: Engine, wanted: Provision) -> Mark | None:
        """Return the mark on the engine; None when there is none. This host's copy is checked, too.

        Raises:
            OwnedByAnother: One of the two does not fit this call.
        """
        self._seen.check_mark(wanted)
        return await check_owner(engine, wanted)

    async def _ensure_runs(
        self, engine: Engine, source: ContainerSource, wanted: Provision, before: Container | None, progress: Progress
    ) -> Container:
        """Return a running container of the source's specification: the present one, or a new one on its volumes."""
        spec = resolve(source, wanted)
        self._engines.check_reachable(source)
        if self._engines.is_local:
            await asyncio.to_thread(check_links, spec.binds)
        name = self._name(wanted.workspace_id)
        old = before if before is not None and (paths := spec.differs_from(before.labels)) else None
        if before is None or old is not None:
            await ensure_image(engine, source, spec.image, progress)
        if old is not None:
            # Saved before the replacement: after a crash, a repeated plan must still report it.
            await progress.save_state({"replaced": {"build": wanted.build_number, "paths": paths}})
            progress(f"{name} has to be replaced, for {', '.join(paths)}; its volumes stay")
            await engine.stop(old)
        made = await to_the_end(make_container(engine, name, spec, old=old, present=before))
        if made is not before:
            progress(f"container {name} is made from {spec.image}")
        return made

    async def _undo(self, engine: Engine, wanted: Provision, progress: Progress) -> None:
        """After a failed start, remove what this build made; stop and keep a container that existed before.

        Raises:
            StaleBuild: The build has ended, or another host runs a later attempt of it. Nothing is removed.
        """
        await progress.save_state(wanted.state or {})
        container = await self._find(engine, wanted.workspace_id)
        if container is not None and container.labels[BUILD_LABEL] != str(wanted.build_number):
            await engine.stop(container)
            return
        if container is not None:
            await engine.remove(container.name)
        await self._remove_volumes(engine, wanted.workspace_id, {BUILD_LABEL: str(wanted.build_number)})
        if await engine.volume_labels(mark_volume(wanted.deployment_id, wanted.workspace_id)) is None:
            self._seen.forget_mark(wanted.workspace_id)

    async def _remove_volumes(
        self, engine: Engine, workspace_id: UUID, also: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        volumes = await engine.volumes({**self._labels(workspace_id), **also})
        for volume in sorted(volumes, key=lambda one: OWNER_LABEL in one["Labels"]):  # the mark is removed last
            await engine.remove_volume(volume["Name"])

    async def _wait_ready(self, engine: Engine, wanted: Provision) -> Container:
        """Return the container once it is ready.

        Raises:
            ProvisionFailed: It ended, or was not ready in time. Quotes the end of its log.
        """
        name, pause = self._name(wanted.workspace_id), POLL_S
        try:
            async with asyncio.timeout(wanted.ready_timeout_s):
                while True:
                    container = await self._find(engine, wanted.workspace_id)
                    if container is None:
                        raise ProvisionFailed(f"the container {name} was removed before it was ready")
                    if not container.running:
                        log = tail_of(await engine.log_tail(name, LOG_TAIL_LINES), wanted)
                        code = container.exit_code
                        raise ProvisionFailed(f"the container ended with status {code} before it was ready{log}")
                    if await is_ready(self._engines, engine, container):
                        return container
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, POLL_MAX_S)
        except TimeoutError as error:
            log = tail_of(await engine.log_tail(name, LOG_TAIL_LINES), wanted)
            raise ProvisionFailed(f"not ready within {wanted.ready_timeout_s:g} s{log}") from error

    def _provisioned(self, source: ContainerSource, wanted: Provision, container: Container) -> Provisioned:
        host, port = self._engines.endpoint(container) or ("", None)
        values = values_of(wanted) | ({"port": str(port)} if port is not None else {})
        shown = source.shown_address(host)
        return Provisioned(
            address=fill(shown, values, "source.address") if shown is not None else None,
            resources={
                "container": container.name,
                "container_id": container.id[:12],
                "ports": dict(sorted(container.ports.items())),
                "volumes": [mount.volume for mount in source.mounts if mount.volume is not None],
            },
        )


def _replaced(wanted: Provision) -> list[str]:
    """Return the paths that an earlier attempt of this build has already replaced; empty for none."""
    done = (wanted.state or {}).get("replaced") or {}
    return list(done["paths"]) if done.get("build") == wanted.build_number else []
