"""One check's trial of a driver: its builds, the state that the database would keep, and what exists afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from prebuilds.api import PrebuildsError, ProvisionerUnavailable
from prebuilds.conformance.subject import Subject, Violation, expect
from prebuilds.provisioners import read_source_files
from prebuilds.provisioners.base import (
    InventoryItem,
    Locality,
    OwnedByAnother,
    Provision,
    Provisioned,
    Provisioner,
    StaleBuild,
)
from prebuilds.vocabulary import PREBUILDS_USER

OWNER = "Alice.Smith@example.com"
LAST_BUILD = 1_000_000
"""Build number of the removal at a check's end, higher than all others."""
CLOCKS_APART = timedelta(minutes=5)
"""Allowed difference between this host's clock and a remote engine's."""


class Kept:
    """A build's progress that keeps lines and state as the database would."""

    def __init__(self, state: dict[str, Any] | None) -> None:
        self.state = state
        self.steps = 0
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        expect(isinstance(line, str), f"progress was called with {line!r}, which is no text")
        self.lines.append(line)
        self._stepped()

    async def save_state(self, state: dict[str, Any]) -> None:
        """Keep *state*, as JSON does."""
        self.state = through_json(state)
        self._stepped()

    def _stepped(self) -> None:
        self.steps += 1


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    """Return *state* as it comes back from the database.

    Raises:
        Violation: It is not JSON.
    """
    try:
        kept: dict[str, Any] = json.loads(json.dumps(state))
    except (TypeError, ValueError) as error:
        raise Violation(f"its state cannot be kept as JSON: {error}") from error
    return kept


class Trial:
    """`async with Trial(...)`: what the check makes is destroyed at the block's end."""

    def __init__(self, subject: Subject, state_dir: Path) -> None:
        self.subject = subject
        self.state_dir = state_dir
        self.deployment_id, self.epoch = uuid4(), uuid4()
        self.driver = self.another()
        self._observer = self.another()
        self.states: dict[UUID, dict[str, Any] | None] = {}
        """The kept state of each workspace that this check has made; None: nothing is kept."""
        self._claims: dict[UUID, dict[str, Any]] = {}
        self._before: set[UUID] = set()

    def another(self) -> Provisioner:
        """Return another instance of the driver, as a second worker of this host has it."""
        return self.subject.driver(self.state_dir, self.deployment_id)

    async def __aenter__(self) -> Trial:
        self._before = {item.workspace_id for item in await self.driver.inventory()}
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        for workspace_id in {item.workspace_id for item in await self._observer.inventory()} & set(self.states):
            try:
                gone = self.build(LAST_BUILD, workspace_id, **self._claims.get(workspace_id, {}))
                await asyncio.wait_for(self.another().destroy(gone, self.kept(gone)), self.subject.ready_timeout_s)
            except Exception as left:  # an error of the check itself says more
                if error is None:
                    raise Violation(f"what it made could not be destroyed: {error_text(left)}") from left

    # --- Builds ---

    def build(self, number: int = 1, workspace_id: UUID | None = None, **changes: Any) -> Provision:
        """Return a build of an unclaimed prebuild.

        Args:
            workspace_id: None: of a new workspace.
            changes: Fields of `Provision` to set otherwise.
        """
        workspace_id = workspace_id or uuid4()
        self.states.setdefault(workspace_id, None)
        kept = read_source_files(self.driver, self.subject.working_source())
        wanted = Provision(
            deployment_id=self.deployment_id,
            epoch=self.epoch,
            workspace_id=workspace_id,
            build_number=number,
            name=f"prebuild-{workspace_id.hex[:8]}",
            owner=PREBUILDS_USER,
            organization="conformance",
            template="conformance",
            preset="small",
            source=kept.source,
            files=kept.files.archive if kept.files is not None else None,
            parameters=dict(self.subject.parameters),
            ready_timeout_s=self.subject.ready_timeout_s,
        )
        return wanted.model_copy(update=changes)

    def next(self, build: Provision, **changes: Any) -> Provision:
        """Return the workspace's next build, with *changes*."""
        return build.model_copy(update={"build_number": build.build_number + 1, **changes})

    def claiming(self, build: Provision) -> Provision:
        """Return the next build, which hands the workspace over to alice. The final removal uses the same claim."""
        short = build.workspace_id.hex[:8]
        claim = {"owner": OWNER, "name": f"alice-{short}", "claimed": True, "claim_id": f"alice/{short}"}
        self._claims[build.workspace_id] = claim
        return self.next(build, **claim)

    def kept(self, build: Provision) -> Kept:
        """Return a progress that has the workspace's kept state."""
        return Kept(self.states.get(build.workspace_id))

    # --- Calls, with the kept state; *driver* is None for the trial's own ---

    async def apply(self, build: Provision, driver: Provisioner | None = None) -> Provisioned:
        """Call `apply`, and keep the state that it returns."""
        return await self._making("apply", build, driver)

    async def claim(self, build: Provision, driver: Provisioner | None = None) -> Provisioned:
        """Call `claim`, and keep the state that it returns."""
        return await self._making("claim", build, driver)

    async def resume(self, build: Provision, driver: Provisioner | None = None) -> Provisioned:
        """Call `resume`, and keep the state that it returns."""
        return await self._making("resume", build, driver)

    async def stop(self, build: Provision, driver: Provisioner | None = None) -> None:
        """Call `stop`."""
        await self.call("stop", build, driver)

    async def destroy(self, build: Provision, driver: Provisioner | None = None) -> None:
        """Call `destroy`."""
        await self.call("destroy", build, driver)

    async def call(
        self, name: str, build: Provision, driver: Provisioner | None = None, progress: Kept | None = None
    ) -> Provisioned | None:
        """Call the method *name* as if its reply were lost: the state that it saved is kept, what it returns is not."""
        progress = progress or self.kept(build)
        wanted = build.model_copy(update={"state": progress.state})
        try:
            answer: Provisioned | None = await getattr(driver or self.driver, name)(wanted, progress)
        finally:
            self.states[build.workspace_id] = progress.state
        return answer

    async def _making(self, name: str, build: Provision, driver: Provisioner | None) -> Provisioned:
        made = await self.call(name, build, driver)
        if not isinstance(made, Provisioned):
            raise Violation(f"{name} returned {made!r} instead of a Provisioned")
        if made.state is not None:
            self.states[build.workspace_id] = through_json(made.state)
        return made

    async def refuses(self, name: str, build: Provision, why: str) -> None:
        """Expect the call to be refused with `StaleBuild`; *why* ends the message otherwise."""
        try:
            await self.call(name, build, self.another())
        except StaleBuild:
            return
        raise Violation(f"{name} of build {build.build_number} was not refused with StaleBuild {why}")

    async def refuses_another(self, name: str, build: Provision, why: str) -> None:
        """Expect the call to be refused with `OwnedByAnother`; *why* ends the message otherwise."""
        try:
            await self.call(name, build, self.another())
        except OwnedByAnother as error:
            expect("what" in error.details, f"the details of OwnedByAnother name no `what`: {error.details}")
            return
        except PrebuildsError as error:
            message = f"{name} of build {build.build_number} was not refused with OwnedByAnother {why}"
            raise Violation(f"{message}, but with {error_text(error)}") from error
        raise Violation(f"{name} of build {build.build_number} was not refused with OwnedByAnother {why}")

    # --- What exists ---

    async def ready(self, workspace_id: UUID) -> bool:
        """Return what another worker's probe answers."""
        try:
            return await self._observer.probe(workspace_id)
        except ProvisionerUnavailable:
            if self._observer.locality is not Locality.SHARED:
                raise
            return False  # "not made by this worker" is the only answer to be had here

    async def existing(self) -> dict[UUID, InventoryItem]:
        """Return what the inventory lists since this check began.

        Raises:
            Violation: It lists a workspace twice, or one that this check did not make.
        """
        items = [item for item in await self._observer.inventory() if item.workspace_id not in self._before]
        found = {item.workspace_id: item for item in items}
        for workspace_id in found:
            times = [item.workspace_id for item in items].count(workspace_id)
            expect(times == 1, f"the inventory has {times} things of the workspace {workspace_id}")
            expect(workspace_id in self.states, f"the inventory has {workspace_id}, which nobody made")
        return found

    async def expect_existing(self, wanted: Sequence[tuple[Provision, bool]], when: str) -> None:
        """Expect exactly these workspaces, each as its latest build left it.

        Args:
            wanted: The latest build of each, and whether it is running and ready (else it is neither).
            when: Begins the message of a violation.
        """
        found = await self.existing()
        for build, running in wanted:
            workspace_id = build.workspace_id
            item = found.pop(workspace_id, None)
            if item is None:
                raise Violation(f"{when}, the inventory lacks the workspace")
            seen, expected = item.build_number, build.build_number
            expect(seen == expected, f"{when}, the inventory gives build {seen} instead of {expected}")
            expect(item.running is running, f"{when}, the inventory says running: {item.running}")
            expect(item.created_at.tzinfo is not None, "created_at has no time zone")
            expect(item.created_at < datetime.now(UTC) + CLOCKS_APART, "created_at is in the future")
            ready = await self.ready(workspace_id)
            expect(ready is running, f"{when}, probe answers {ready}")
        for workspace_id in found:
            raise Violation(f"{when}, the inventory still has a workspace ({workspace_id})")
        for workspace_id in set(self.states) - {build.workspace_id for build, _ in wanted}:
            expect(
                not await self.ready(workspace_id), f"{when}, probe says that a workspace which does not exist is ready"
            )


def same_thing(first: Provisioned, again: Provisioned, when: str) -> None:
    """Expect two replies to be about the same thing: same address, same resources."""
    expect(first.address == again.address, f"{when}, the address went from {first.address} to {again.address}")
    expect(
        first.resources == again.resources, f"{when}, the resources went from {first.resources} to {again.resources}"
    )


def error_text(error: BaseException) -> str:
    """Return an error's type and message."""
    return f"{type(error).__name__}: {error}"
