"""TLS to PostgreSQL with `verify-full`, as hosted services want it: claims, statements and commands; or one line."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from prebuilds.api import StackUnreachable
from prebuilds.cli import run
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import check_reachable, create_claim_pool, create_engine
from tests.builders import make_preset
from tests.postgres.pool_steps import claim, make_ready
from tests.tls import Authority, server_context, tls_before_postgres


@pytest.mark.skipif("PREBUILDS_TEST_DATABASE_URL" in os.environ, reason="needs the suite's own PostgreSQL")
async def test_verify_full_connects_to_the_server_that_it_trusts_and_to_no_other(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREBUILDS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    authority, plain = Authority(tmp_path), urlsplit(database_url)
    socket = Path(parse_qs(plain.query)["host"][0]) / ".s.PGSQL.5432"
    good, foreign = authority.sign("server"), authority.sign("foreign", host="db.example")
    with (
        tls_before_postgres(socket, server_context(good)) as ours,
        tls_before_postgres(socket, server_context(foreign)) as another,
    ):

        def url(trusting: Authority, port: int = ours) -> str:
            place = f"{plain.username}@localhost:{port}{plain.path}"
            return f"postgresql://{place}?sslmode=verify-full&sslrootcert={trusting.cert}"

        engine = create_engine(url(authority))
        preset = await make_preset(engine)
        await make_ready(engine, preset, 1)
        async with await create_claim_pool(url(authority), size=2) as pool:
            assert (await claim(ClaimStore(pool, enabled=True), preset)).result is not None
        await engine.dispose()

        over_tls = url(authority)
        for mode in ("prefer", "require", "verify-ca"):
            assert await check_reachable(over_tls.replace("verify-full", mode)), mode
        for mode in ("disable", "allow", "prefer"):
            assert await check_reachable(f"{database_url}&sslmode={mode}"), mode

        async def listed(url: str) -> tuple[int, str]:
            monkeypatch.setenv("PREBUILDS_DATABASE_URL", url)
            code = await asyncio.to_thread(run, ["presets", "list", "--json"])
            return code, capsys.readouterr().out

        assert (await listed(url(authority)))[0] == 0
        for wrong, reason in (
            (url(Authority(tmp_path, "other")), "certificate verify failed"),
            (url(authority, another), "Hostname mismatch, certificate is not valid for 'localhost'"),
        ):
            code, out = await listed(wrong)
            error = json.loads(out)["error"]
            assert (code, error["type"]) == (3, "StackUnreachable")
            assert reason in error["message"]


@pytest.mark.skipif("PREBUILDS_TEST_DATABASE_URL" in os.environ, reason="needs the suite's own PostgreSQL")
async def test_user_and_authority_may_come_from_variables(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Helm chart sets them so: the URL is the same for all processes, and names nobody."""
    authority, plain = Authority(tmp_path), urlsplit(database_url)
    socket = Path(parse_qs(plain.query)["host"][0]) / ".s.PGSQL.5432"
    with tls_before_postgres(socket, server_context(authority.sign("server"))) as port:
        url = f"postgresql://localhost:{port}{plain.path}?sslmode=verify-full"
        monkeypatch.setenv("PGUSER", str(plain.username))
        monkeypatch.setenv("PGSSLROOTCERT", str(authority.cert))
        assert await check_reachable(url)
        monkeypatch.setenv("PGSSLROOTCERT", str(Authority(tmp_path, "other").cert))
        with pytest.raises(StackUnreachable, match="certificate verify failed"):
            await check_reachable(url)
