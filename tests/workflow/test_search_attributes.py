"""Search attributes registered while the server runs, as on every cluster except the embedded one."""

from __future__ import annotations

import time
from math import inf
from pathlib import Path

import pytest

from prebuilds.stack.temporal_server import TemporalDevServer
from prebuilds.temporal.connecting import SearchAttributes, connect, start_short
from prebuilds.temporal.search_attributes import register


async def test_search_attributes_can_be_used_once_they_are_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SearchAttributes, "missing_until", -inf)
    server = TemporalDevServer(tmp_path)
    command = server._command
    server._command = lambda: [
        word for word in command() if not word.endswith("=Keyword") and word != "--search-attribute"
    ]
    try:
        client = await connect(await server.start())
        assert await register(client)
        await start_short(client, "Any", None, id="any", task_queue="any", search={"owner": "alice"})
        assert time.monotonic() > SearchAttributes.missing_until
        found = await client.get_workflow_handle("any").describe()
        assert [pair.value for pair in found.typed_search_attributes] == ["alice"]
    finally:
        server.stop()
