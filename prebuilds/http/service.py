"""What the routes of a server work with."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request

from prebuilds.doctor import DoctorReport
from prebuilds.operations.builds import BuildWatch
from prebuilds.operations.direct_claims import DirectClaims
from prebuilds.operations.event_feed import EventFeed
from prebuilds.operations.facade import Operations
from prebuilds.operations.waiting_claims import WaitingClaims


@dataclass(slots=True)
class Service:
    """One server's view of the operations."""

    operations: Operations
    direct: DirectClaims
    waiting: WaitingClaims
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server is about to end: nobody is kept waiting any longer."""
    last_request_at: float = 0.0
    """When the last request came in, by the event loop's clock."""
    held_of: Counter[UUID | None] = field(default_factory=Counter)
    """Answers that are held, and streams, by their token's id."""
    events: EventFeed = field(init=False)
    builds: BuildWatch = field(init=False)

    examining: asyncio.Task[DoctorReport] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.events = EventFeed(self.operations.context.engine)
        self.builds = BuildWatch(self.operations.context.engine)

    async def examine(self) -> DoctorReport:
        """Run the doctor's checks, once for all who ask at the same time: each run opens connections of its own."""
        if self.examining is None or self.examining.done():
            self.examining = asyncio.create_task(self.operations.doctor.examine())
        return await asyncio.shield(self.examining)


def service_of(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


async def _served(request: Request) -> Service:  # a function that is no coroutine would run in a thread
    return service_of(request)


Served = Annotated[Service, Depends(_served)]
