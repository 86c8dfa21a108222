"""A Temporal that requires client certificates: a valid one works, and any other gives a one-line error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from prebuilds.cli import run
from prebuilds.failures.temporal import CHECK_TLS
from prebuilds.temporal.connecting import connect
from tests.tls import Authority, Certificate, server_context, tls_before_temporal


class Demanding:
    """A Temporal behind TLS, and the environment of its clients."""

    def __init__(self, address: str, folder: Path, authority: Authority, env: pytest.MonkeyPatch) -> None:
        self.authority, self.other, self._env = authority, Authority(folder, "other"), env
        env.setenv("TEMPORAL_ADDRESS", address)
        env.setenv("TEMPORAL_TLS", "true")

    def present(self, certificate: Certificate | None, trusting: Authority) -> None:
        self._env.setenv("TEMPORAL_TLS_SERVER_CA_CERT_PATH", trusting.cert)
        for name, file in zip(("CERT", "KEY"), certificate or (), strict=False):
            self._env.setenv(f"TEMPORAL_TLS_CLIENT_{name}_PATH", file)


@pytest.fixture
async def demanding(
    dev: WorkflowEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Demanding]:
    authority = Authority(tmp_path)
    context = server_context(authority.sign("server"), authority)
    monkeypatch.setenv("PREBUILDS_STATE_DIR", str(tmp_path))
    with tls_before_temporal(dev.client.service_client.config.target_host, context) as address:
        yield Demanding(address, tmp_path, authority, monkeypatch)


async def test_only_a_good_certificate_works_and_all_else_is_one_line(
    demanding: Demanding, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREBUILDS_DATABASE_URL", database_url)
    ours, good = demanding.authority, demanding.authority.sign("client")
    refused = [
        (None, ours),
        (ours.sign("expired", days=-1), ours),
        (demanding.other.sign("stranger"), ours),
        (good, demanding.other),
    ]
    for certificate, trusting in refused:
        demanding.present(certificate, trusting)
        for words in (("start",), ("init",), ("claim", "--preset", "a/b/c", "--owner", "a", "--name", "n")):
            assert await asyncio.to_thread(run, [*words, "--json"]) == 3, (certificate, words)
            output = capsys.readouterr()
            document = json.dumps(json.loads(output.out))  # one document; that of `init` has more than the error
            assert (output.err, "cannot reach Temporal" in document, CHECK_TLS in document) == ("", True, True), (
                document
            )
    assert "its certificate is not trusted: UnknownIssuer" in document

    demanding.present(good, ours)
    assert await asyncio.to_thread(run, ["init"]) == 0
    assert (await (await connect()).count_workflows()).count == 0
