"""Claims that are made while an upgrade goes on: each asks until it has an answer, and gives its workspace back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from prebuilds.api import NoClaimablePrebuiltWorkspaces, PrebuildsError, WorkspaceNotFound
from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimResult
from prebuilds.vocabulary import OnEmpty

WAIT = timedelta(minutes=20)
TRIES_MAX = 100
ANSWERS_S = 1200.0


@dataclass(frozen=True)
class Plan:
    """How much is tried."""

    claims: int
    pool: int
    parallel: int
    """Claims that are under way at a time."""
    kills: int
    seed: int = 1


@dataclass
class Seen:
    """What the claims were answered."""

    claimed: list[ClaimResult] = field(default_factory=list)
    missed: int = 0
    retries: int = 0

    @property
    def answered(self) -> int:
        return len(self.claimed) + self.missed


class Traffic:
    """Half of the claims wait for a prebuild when none is ready, the others take a no for an answer."""

    def __init__(self, client: PrebuildsClient) -> None:
        self.seen = Seen()
        self._client = client
        self._wanted = asyncio.Semaphore(0)
        self._requested = 0
        self._next = 0

    async def answer(self, claims: int, *, but: int = 0) -> None:
        """Have so many more claims made, and wait until all that were ever made are answered, *but* a few."""
        self._requested += claims
        for _ in range(claims):
            self._wanted.release()
        async with asyncio.timeout(ANSWERS_S):
            while self.seen.answered < self._requested - but:
                await asyncio.sleep(0.1)

    async def claimer(self) -> None:
        """Make one claim after the other, as many as are asked for."""
        while True:
            await self._wanted.acquire()
            number, self._next = self._next, self._next + 1
            result = await self.claim("quick", f"c{number}", OnEmpty.WAIT if number % 2 else OnEmpty.FAIL)
            if result is None:
                self.seen.missed += 1
            else:
                self.seen.claimed.append(result)
                await self._release(result)

    async def claim(self, template: str, name: str, on_empty: OnEmpty) -> ClaimResult | None:
        """Ask until there is an answer, under one id, as a service does; None: nothing was ready."""
        for _ in range(TRIES_MAX):
            try:
                return await self._client.claim(
                    preset=f"upgrade/{template}/small",
                    owner="alice" if len(name) % 2 else "bob",
                    name=name,
                    claim_id=f"upgrade-{name}",
                    on_empty=on_empty,
                    wait_timeout=WAIT if on_empty is OnEmpty.WAIT else None,
                )
            except NoClaimablePrebuiltWorkspaces:
                return None
            except PrebuildsError as error:
                self._expect(error)
        raise AssertionError(f"the claim {name} got no answer")

    async def _release(self, result: ClaimResult) -> None:
        for tried in range(TRIES_MAX):
            try:
                await self._client.release(str(result.workspace_id))
                return
            except WorkspaceNotFound:
                if tried:
                    return  # the try before has released it, and its answer was lost
                raise
            except PrebuildsError as error:
                self._expect(error)
        raise AssertionError(f"the release of {result.workspace_id} got no answer")

    def _expect(self, error: PrebuildsError) -> None:
        if not error.retryable:
            raise error
        self.seen.retries += 1


@asynccontextmanager
async def claiming(client: PrebuildsClient, plan: Plan) -> AsyncIterator[Traffic]:
    """Claimers that work during the block. One that fails ends it with its error."""
    traffic = Traffic(client)
    async with asyncio.TaskGroup() as group:
        claimers = [group.create_task(traffic.claimer()) for _ in range(plan.parallel)]
        yield traffic
        for task in claimers:
            task.cancel()
