"""What the pages show: one reading of each, of everything that its viewers together may see."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from uuid import UUID

from prebuilds.doctor import DoctorReport
from prebuilds.http.page.watching import Watched, WatchedStates
from prebuilds.http.service import Service
from prebuilds.operations.facade import Operations
from prebuilds.views import ClaimExplanation, LogLine, WorkspaceDetails
from prebuilds.views.pools import HourFigures, Overview, PoolDetails

logger = logging.getLogger(__name__)

HOUR_EVERY_S = 10.0
"""How often the last hour's figures are read: they cost more than the pools' state, and change less."""
DOCTOR_EVERY_S = 60.0
"""How often the doctor examines while somebody looks. It opens connections of its own, and takes seconds."""
DECISIONS = 30
"""The newest decisions about a pool that its page shows; `prebuilds explain preset` has all of them."""
LOG_LINES = 300
"""The last lines of a log that a page shows."""
FOREVER_AGO = float("-inf")


@dataclass(frozen=True, slots=True)
class Pools:
    """All pools of the deployment."""

    overview: Overview
    hour: dict[UUID, HourFigures]
    doctor: DoctorReport | None
    """None while the first examination runs."""


@dataclass(frozen=True, slots=True)
class Pool:
    """One preset's pool."""

    details: PoolDetails
    hour: HourFigures | None


@dataclass(frozen=True, slots=True)
class WorkspaceState:
    """One workspace with the end of its newest log."""

    workspace: WorkspaceDetails
    logged: UUID | None
    """The build whose log it is; None when no build has one."""
    log: list[LogLine]


class States:
    """The states of one deployment, each read once for all its viewers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._watched = WatchedStates()
        self._hours: dict[tuple[UUID, ...], tuple[float, dict[UUID, HourFigures]]] = {}
        self._doctor: DoctorReport | None = None
        self._doctor_at = FOREVER_AGO
        self._examining: threading.Thread | None = None

    @property
    def _operations(self) -> Operations:
        return self._service.operations

    def pools(self) -> Watched[Pools]:
        """All pools."""
        return self._watched.get("pools", self._read_pools)

    def pool(self, preset: str) -> Watched[Pool]:
        """The pool of `organization/template/preset`."""

        async def read() -> Pool:
            details = await self._operations.pools.details(preset, limit=DECISIONS)
            ids = (details.explanation.preset_id,)
            return Pool(details, (await self._hour(ids)).get(ids[0]))

        return self._watched.get(("pool", preset), read)

    def workspace(self, workspace_id: str) -> Watched[WorkspaceState]:
        """A workspace, by its id."""

        async def read() -> WorkspaceState:
            found = await self._operations.workspaces.show(workspace_id)
            for build in reversed(found.builds):
                if lines := await self._operations.logs.end(build.build_id, LOG_LINES):
                    return WorkspaceState(found, build.build_id, lines)
            return WorkspaceState(found, None, [])

        return self._watched.get(("workspace", workspace_id), read)

    def claim(self, claim_id: str) -> Watched[ClaimExplanation]:
        """A claim, by its id."""
        return self._watched.get(("claim", claim_id), lambda: self._operations.explain.claim(claim_id))

    def expire(self) -> None:
        """Have everything that somebody looks at read again at once."""
        self._watched.expire_all()

    async def _read_pools(self) -> Pools:
        overview = await self._operations.pools.overview()
        hour = await self._hour(tuple(row.preset_id for row in overview.presets))
        self._examine()
        return Pools(overview, hour, self._doctor)

    async def _hour(self, ids: tuple[UUID, ...]) -> dict[UUID, HourFigures]:
        now = asyncio.get_running_loop().time()
        read_at, found = self._hours.get(ids, (FOREVER_AGO, {}))
        if now - read_at >= HOUR_EVERY_S:
            found = await self._operations.pools.hour(ids)
            self._hours = {key: value for key, value in self._hours.items() if now - value[0] < HOUR_EVERY_S}
            self._hours[ids] = now, found
        return found

    def _examine(self) -> None:
        """Begin an examination if the last one is old; a later reading shows what it finds."""
        now = asyncio.get_running_loop().time()
        if now - self._doctor_at >= DOCTOR_EVERY_S and (self._examining is None or not self._examining.is_alive()):
            self._doctor_at = now
            # A loop of its own: the checks connect and import much, and claims would wait for that. A daemon thread:
            # a server that ends does not wait for a check.
            self._examining = threading.Thread(target=self._examined, name="doctor", daemon=True)
            self._examining.start()

    def _examined(self) -> None:
        try:
            self._doctor = asyncio.run(self._operations.doctor.examine(trials=False))
        except Exception:
            logger.warning("The doctor failed", exc_info=True)
