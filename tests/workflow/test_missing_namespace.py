"""A Temporal without the configured namespace: one line and exit code 3 in every command and every worker."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from prebuilds.cli import run

COMMANDS = (
    ("init",),
    ("start",),
    ("stop", "--cause", "a mistake"),
    ("reconcile",),
    ("claim", "--preset", "a/b/c", "--owner", "a", "--name", "n"),
)


async def test_a_missing_namespace_is_reported_by_every_command_and_worker(
    dev: WorkflowEnvironment,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PREBUILDS_DATABASE_URL", database_url)
    monkeypatch.setenv("PREBUILDS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("TEMPORAL_ADDRESS", dev.client.service_client.config.target_host)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "nowhere")
    for words in COMMANDS:
        assert await asyncio.to_thread(run, [*words, "--json"]) == 3, words
        output = capsys.readouterr()
        document = json.dumps(json.loads(output.out))  # one document; that of `init` has more than the error
        assert (output.err, "Temporal has no such namespace" in document, "TEMPORAL_NAMESPACE" in document) == (
            "",
            True,
            True,
        )

    async def work(role: str) -> subprocess.CompletedProcess[str]:
        words = (sys.executable, "-m", "prebuilds", "worker", "--role", role)
        return await asyncio.to_thread(
            subprocess.run, words, env=os.environ, capture_output=True, text=True, check=False, timeout=60
        )

    for ended in await asyncio.gather(work("control"), work("claims"), work("provisioner")):
        assert (ended.returncode, ended.stderr.count("\n")) == (3, 1), ended.stderr
        assert "Temporal has no such namespace" in ended.stderr
