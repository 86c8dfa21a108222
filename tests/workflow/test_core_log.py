"""The SDK's own log while a Temporal is away: on stderr, since stdout is a command's one document."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest
from temporalio.client import RPCError
from temporalio.testing import WorkflowEnvironment

from prebuilds.temporal.connecting import connect


async def test_retries_of_the_sdk_are_logged_and_not_printed(
    skipping: WorkflowEnvironment, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    host, _, port = skipping.client.service_client.config.target_host.rpartition(":")
    links: list[asyncio.StreamWriter] = []

    async def link(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        links.extend((writer, far_writer))
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            tasks.append(asyncio.create_task(_pass(source, sink)))

    tasks: list[asyncio.Task[None]] = []
    server = await asyncio.start_server(link, "127.0.0.1", 0)
    client = await connect(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    server.close()  # and Temporal goes away
    for writer in links:
        writer.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    with caplog.at_level(logging.WARNING), pytest.raises(RPCError):
        await client.get_workflow_handle("none").describe(rpc_timeout=timedelta(seconds=4))
    await asyncio.sleep(0.1)  # the core hands its log over every few milliseconds
    assert capfd.readouterr().out == ""
    assert any(record.name.startswith("temporalio.core") for record in caplog.records)


async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65_536):
            sink.write(data)
    finally:
        sink.close()
