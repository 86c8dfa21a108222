"""This host's memory of the database: what it has seen there, kept in the state folder, outside every backup of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.payloads import Seen
from prebuilds.provisioners.kit.folders import write_whole
from prebuilds.store.history import check_history

WITNESS_FILE = "witness.json"


class Witness(Protocol):
    """Whoever remembers what it has seen in the database."""

    async def contact(self) -> None: ...


class NoWitness:
    """Remembers nothing, for a process that keeps no state folder."""

    async def contact(self) -> None:
        return


class HostWitness:
    """Compares the database with what this host has seen, at each contact that matters."""

    def __init__(self, engine: AsyncEngine, state_dir: Path, host: str) -> None:
        self._engine = engine
        self._path = state_dir / WITNESS_FILE
        self._name = f"host {host}"
        self._turn = asyncio.Lock()

    async def contact(self) -> None:
        """Note the newest event; report the database as restored when it has lost what was noted before."""
        async with self._turn:  # two at once could note the older one last
            before = self._read()
            seen = await check_history(self._engine, before, self._name)
            if seen is not None and seen != before:
                await asyncio.to_thread(self._write, seen)

    def _read(self) -> Seen | None:
        try:
            return Seen.model_validate_json(self._path.read_bytes())
        except (FileNotFoundError, ValidationError):  # half-written by hand: it can prove nothing
            return None

    def _write(self, seen: Seen) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, seen.model_dump_json())
