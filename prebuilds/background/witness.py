"""A host's memory of the database. It is kept in the state folder, so that no restore of the database changes it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.payloads import SeenEvent
from prebuilds.provisioners.kit.folders import write_whole
from prebuilds.store.history import check_history

WITNESS_FILE = "witness.json"


class Witness(Protocol):
    """Remembers the newest event that it has seen in the database."""

    async def contact(self) -> None:
        """Check the database against what was remembered, and remember its newest event."""
        ...


class NoWitness:
    """A witness that remembers nothing, for a process without a state folder."""

    async def contact(self) -> None:
        """Do nothing."""
        return


class HostWitness:
    """A witness that remembers in a file of the host's state folder."""

    def __init__(self, engine: AsyncEngine, state_dir: Path, host: str) -> None:
        self._engine = engine
        self._path = state_dir / WITNESS_FILE
        self._name = f"host {host}"
        self._lock = asyncio.Lock()

    async def contact(self) -> None:
        """Remember the newest event. If the database has lost the one remembered before, report it as restored."""
        async with self._lock:  # two contacts at once could write the older event last
            before = self._read()
            seen = await check_history(self._engine, before, self._name)
            if seen is not None and seen != before:
                await asyncio.to_thread(self._write, seen)

    def _read(self) -> SeenEvent | None:
        try:
            return SeenEvent.model_validate_json(self._path.read_bytes())
        except (FileNotFoundError, ValidationError):  # a file that somebody has edited proves nothing
            return None

    def _write(self, seen: SeenEvent) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, seen.model_dump_json())
