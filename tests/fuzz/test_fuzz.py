"""A short version of `make fuzz`."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from tests.fuzz.run import fuzz, listening


async def test_no_request_brings_a_fault_or_an_undocumented_answer(
    engine: AsyncEngine, database_url: str, tmp_path: Path
) -> None:
    limits = ("--phases", "examples,fuzzing", "--max-examples", "3", "--max-time", "20", "--seed", "1")
    async with listening(engine, database_url) as address:
        code, printed = await fuzz(address, tmp_path, *limits)
    assert code == 0, printed
    assert "✅ Fuzzing" in printed, printed
