"""The operations of a deployment over HTTP: the same methods, records and errors as those of `facade.py`.

Commands take either; the type checker compares the two at each call. What has no method here needs the database itself.
The server takes the actor from the token, so the argument *actor* has no effect.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prebuilds.operations.remote.people import RemotePeople, RemoteTokens
from prebuilds.operations.remote.pools import (
    RemoteDrills,
    RemoteLimits,
    RemoteLint,
    RemotePresets,
    RemoteRollouts,
    RemoteSizes,
    RemoteTemplates,
)
from prebuilds.operations.remote.system import RemoteDoctor, RemoteInventory, RemoteLoop, RemoteStatus
from prebuilds.operations.remote.workspaces import RemoteExplanations, RemoteJobs, RemoteWorkspaces
from prebuilds.remote.transport import Transport, open_transport


class RemoteOperations:
    """The operations of one deployment, over HTTP."""

    def __init__(self, transport: Transport) -> None:
        self.doctor = RemoteDoctor(transport)
        self.drills = RemoteDrills(transport)
        self.explain = RemoteExplanations(transport)
        self.inventory = RemoteInventory(transport)
        self.jobs = RemoteJobs(transport)
        self.limits = RemoteLimits(transport)
        self.lint = RemoteLint(transport)
        self.loop = RemoteLoop(transport)
        self.people = RemotePeople(transport)
        self.presets = RemotePresets(transport)
        self.rollouts = RemoteRollouts(transport)
        self.sizes = RemoteSizes(transport)
        self.status = RemoteStatus(transport)
        self.templates = RemoteTemplates(transport)
        self.tokens = RemoteTokens(transport)
        self.workspaces = RemoteWorkspaces(transport)


@asynccontextmanager
async def open_remote_operations() -> AsyncIterator[RemoteOperations]:
    """Open the operations on the server that PREBUILDS_URL names. Raises as `open_transport` does."""
    transport = await open_transport()
    try:
        yield RemoteOperations(transport)
    finally:
        await transport.close()
