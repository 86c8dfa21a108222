"""The benchmarks against the deployment that the environment names."""

from __future__ import annotations

import aiohttp

from prebuilds.api import InvalidInput, StackUnreachable
from prebuilds.bench.figures import Report
from prebuilds.bench.in_use import measure_bursts, measure_claims, measure_http
from prebuilds.bench.passes import idle_passes
from prebuilds.client import PrebuildsClient, connect
from prebuilds.operations.opening import open_stack
from prebuilds.settings import database_url, load_settings, temporal_address
from prebuilds.temporal.stack_file import read_stack_file


async def bench_claims(pairs: int) -> list[Report]:
    """Claims one after the other, as `measure_claims` does. Raises as `open_stack` does."""
    settings = load_settings()
    async with open_stack() as engine:
        return await measure_claims(engine, database_url(settings), temporal_address(settings), pairs)


async def bench_bursts(number: int, rounds: int) -> list[Report]:
    """Many claims at once, as `measure_bursts` does. Raises as `open_stack` does."""
    async with open_stack() as engine:
        return await measure_bursts(engine, temporal_address(load_settings()), number, rounds)


async def bench_http(url: str | None, pairs: int, at_once: int) -> list[Report]:
    """Claims over HTTP, as `measure_http` does. Raises as `open_stack` does.

    Args:
        url: The server's address; None for that of the running `prebuilds dev`.
    Raises:
        InvalidInput: There is no address, or no server of this deployment answers there.
    """
    settings = load_settings()
    address = url or read_stack_file(settings.state_dir).get("http")
    if not address:
        raise InvalidInput.field("url", "is required", "name the server with --url, or start `prebuilds dev` here")
    async with open_stack() as engine:
        try:
            return await measure_http(
                engine, database_url(settings), temporal_address(settings), address, pairs, at_once
            )
        except aiohttp.ClientError as error:
            raise StackUnreachable(
                f"no HTTP server answers at {address} ({error})",
                remedy="start `prebuilds serve`, or name it with --url",
            ) from error


async def bench_passes(passes: int) -> list[Report]:
    """Passes over the deployment as it is, as `idle_passes` does. Raises as `open_stack` does."""
    async with open_stack() as engine:
        client = PrebuildsClient(await connect(temporal_address(load_settings())))
        return [await idle_passes(client, engine, passes, "this deployment")]
