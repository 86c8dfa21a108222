"""The benchmarks against the deployment that the environment names."""

from __future__ import annotations

from prebuilds.bench.figures import Report
from prebuilds.bench.in_use import measure_bursts, measure_claims
from prebuilds.bench.passes import idle_passes
from prebuilds.client import PrebuildsClient
from prebuilds.operations.opening import open_stack
from prebuilds.settings import database_url, load_settings, temporal_address


async def bench_claims(pairs: int) -> list[Report]:
    """Claims one after the other, as `measure_claims` does. Raises as `open_stack` does."""
    settings = load_settings()
    async with open_stack() as engine:
        return await measure_claims(engine, database_url(settings), temporal_address(settings), pairs)


async def bench_bursts(number: int, rounds: int) -> list[Report]:
    """Many claims at once, as `measure_bursts` does. Raises as `open_stack` does."""
    async with open_stack() as engine:
        return await measure_bursts(engine, temporal_address(load_settings()), number, rounds)


async def bench_passes(passes: int) -> list[Report]:
    """Passes over the deployment as it is, as `idle_passes` does. Raises as `open_stack` does."""
    async with open_stack() as engine:
        client = await PrebuildsClient.connect(temporal_address(load_settings()))
        return [await idle_passes(client, engine, passes, "this deployment")]
