"""One check's dealings with a driver: its builds, what the database would keep of them, and what exists afterwards."""

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
"""Of the removal at a check's end: later than all others."""
CLOCKS_APART = timedelta(minutes=5)
"""Between us and a remote engine."""


class Kept:
    """A build's progress, as the database keeps it."""

    def __init__(self, state: dict[str, Any] | None) -> None:
        self.state = state
        self.steps = 0
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        expect(isinstance(line, str), f"progress was told {line!r}, which is no text")
        self.lines.append(line)
        self._stepped()

    async def save_state(self, state: dict[str, Any]) -> None:
        self.state = through_json(state)
        self._stepped()

    def _stepped(self) -> None:
        self.steps += 1


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    try:
        kept: dict[str, Any] = json.loads(json.dumps(state))
    except (TypeError, ValueError) as error:
        raise Violation(f"its state cannot be kept as JSON: {error}") from error
    return kept


class Trial:
    def __init__(self, subject: Subject, state_dir: Path) -> None:
        self.subject = subject
        self.state_dir = state_dir
        self.deployment_id, self.epoch = uuid4(), uuid4()
        self.driver = self.another()
        self._observer = self.another()
        self.states: dict[UUID, dict[str, Any] | None] = {}
        """By workspace that this check has made."""
        self._claims: dict[UUID, dict[str, Any]] = {}
        self._before: set[UUID] = set()

    def another(self) -> Provisioner:
        """The driver once more, as a second worker of this host has it."""
        return self.subject.driver(self.state_dir, self.deployment_id)

    async def __aenter__(self) -> Trial:
        self._before = {item.workspace_id for item in await self.driver.inventory()}
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        for workspace_id in {item.workspace_id for item in await self._observer.inventory()} & set(self.states):
            try:
                gone = self.build(LAST_BUILD, workspace_id, **self._claims.get(workspace_id, {}))
                await asyncio.wait_for(self.another().destroy(gone, self.kept(gone)), self.subject.ready_timeout_s)
            except Exception as left:  # the check's own finding tells more
                if error is None:
                    raise Violation(f"what it made could not be destroyed: {told(left)}") from left

    # --- Builds ---

    def build(self, number: int = 1, workspace_id: UUID | None = None, **changes: Any) -> Provision:
        """A build of a prebuild; of a new workspace unless one is named."""
        workspace_id = workspace_id or uuid4()
        self.states.setdefault(workspace_id, None)
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
            source=self.subject.working_source(),
            parameters=dict(self.subject.parameters),
            ready_timeout_s=self.subject.ready_timeout_s,
        )
        return wanted.model_copy(update=changes)

    def next(self, build: Provision, **changes: Any) -> Provision:
        return build.model_copy(update={"build_number": build.build_number + 1, **changes})

    def claiming(self, build: Provision) -> Provision:
        """The build that hands it over to alice; of the claim that its removal at the end is of, too."""
        short = build.workspace_id.hex[:8]
        claim = {"owner": OWNER, "name": f"alice-{short}", "claimed": True, "claim_id": f"alice/{short}"}
        self._claims[build.workspace_id] = claim
        return self.next(build, **claim)

    def kept(self, build: Provision) -> Kept:
        return Kept(self.states.get(build.workspace_id))

    # --- Calls, with the state that was kept before ---

    async def apply(self, build: Provision, driver: Provisioner | None = None) -> Provisioned:
        return await self._making("apply", build, driver)

    async def claim(self, build: Provision, driver: Provisioner | None = None) -> Provisioned:
        return await self._making("claim", build, driver)

    async def stop(self, build: Provision, driver: Provisioner | None = None) -> None:
        await self.call("stop", build, driver)

    async def destroy(self, build: Provision, driver: Provisioner | None = None) -> None:
        await self.call("destroy", build, driver)

    async def call(
        self, name: str, build: Provision, driver: Provisioner | None = None, progress: Kept | None = None
    ) -> Provisioned | None:
        """Make a call whose reply is lost: what it saved while it ran is kept, what it returns is not."""
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
        try:
            await self.call(name, build, self.another())
        except StaleBuild:
            return
        raise Violation(f"{name} of build {build.build_number} was not refused with StaleBuild {why}")

    async def refuses_another(self, name: str, build: Provision, why: str) -> None:
        try:
            await self.call(name, build, self.another())
        except OwnedByAnother as error:
            expect("what" in error.details, f"the details of OwnedByAnother name no `what`: {error.details}")
            return
        except PrebuildsError as error:
            message = f"{name} of build {build.build_number} was not refused with OwnedByAnother {why}"
            raise Violation(f"{message}, but with {told(error)}") from error
        raise Violation(f"{name} of build {build.build_number} was not refused with OwnedByAnother {why}")

    # --- What exists ---

    async def ready(self, workspace_id: UUID) -> bool:
        try:
            return await self._observer.probe(workspace_id)
        except ProvisionerUnavailable:
            if self._observer.locality is not Locality.SHARED:
                raise
            return False  # "not made by this worker": no other answer is had here

    async def existing(self) -> dict[UUID, InventoryItem]:
        """What the inventory has since this check began, each thing once, none that it did not make."""
        items = [item for item in await self._observer.inventory() if item.workspace_id not in self._before]
        found = {item.workspace_id: item for item in items}
        for workspace_id in found:
            times = [item.workspace_id for item in items].count(workspace_id)
            expect(times == 1, f"the inventory has {times} things of the workspace {workspace_id}")
            expect(workspace_id in self.states, f"the inventory has {workspace_id}, which nobody made")
        return found

    async def expect_existing(self, wanted: Sequence[tuple[Provision, bool]], when: str) -> None:
        """Exactly these exist, each as its latest build left it: running and ready, or neither."""
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
            expect(not await self.ready(workspace_id), f"{when}, probe says that one which does not exist is ready")


def same_thing(first: Provisioned, again: Provisioned, when: str) -> None:
    """The same call tells of the same thing: same address, same resources."""
    expect(first.address == again.address, f"{when}, the address went from {first.address} to {again.address}")
    expect(
        first.resources == again.resources, f"{when}, the resources went from {first.resources} to {again.resources}"
    )


def told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
