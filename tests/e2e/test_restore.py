"""A backup restored under a running deployment gives nobody another person's workspace, and removes nothing of theirs.

The steps are those of docs/operations.md, "Backup, restore, failover", but for stopping the workers first: what an
operator forgets must do no harm.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from prebuilds.payloads import ClaimResult
from prebuilds.stack.postgres import wheel_bin_dir
from prebuilds.store.engine import dsn_of
from tests.e2e.dev_stack import DevStack, until

ORGANIZATION = "bakery"


def psql(program: str, url: str, *words: str) -> None:
    subprocess.run([wheel_bin_dir() / program, f"--dbname={dsn_of(url)}", *words], check=True, capture_output=True)


def restore(stack: DevStack, dump: Path) -> None:
    """Put the backup in the database's place, whoever is connected."""
    url = urlsplit(stack.facts["database_url"])
    server, database = urlunsplit(url._replace(path="/postgres")), url.path.removeprefix("/")
    psql("psql", server, "-c", f'DROP DATABASE "{database}" WITH (FORCE)')
    psql("psql", server, "-c", f'CREATE DATABASE "{database}"')
    psql("pg_restore", stack.facts["database_url"], "--single-transaction", str(dump))


@pytest.mark.timeout(300)
def test_a_backup_restored_under_a_running_deployment_harms_nobody(tmp_path: Path) -> None:
    stack = DevStack(tmp_path)
    stack.start()
    try:
        stack.apply(ORGANIZATION, 3)
        stack.wait_whole(ORGANIZATION)
        dump = tmp_path / "backup"
        psql("pg_dump", stack.facts["database_url"], "--format=custom", f"--file={dump}")

        claimed = [c for c in stack.claim_at_once(ORGANIZATION, ["a", "b", "c"]) if isinstance(c, ClaimResult)]
        alices = {str(c.workspace_id) for c in claimed}
        assert len(alices) == 3
        stack.wait_whole(ORGANIZATION)
        until(
            lambda: all(
                b["status"] == "succeeded" for w in alices for b in stack.ask("workspaces", "show", w)["builds"]
            ),
            "the hand-overs to end",
        )
        pids = {w: stack.processes()[w] for w in alices}

        restore(stack, dump)
        until(lambda: not stack.cli("doctor", "--json").json["ok"], "the restore to be noticed")
        checks = {c["name"]: c for c in stack.cli("doctor", "--json").json["checks"]}
        assert "prebuilds restored" in checks["history"]["remedy"]
        refused = stack.cli(
            "claim", "--preset", f"{ORGANIZATION}/python/small", "--owner", "bob", "--name", "b", "--json"
        )
        assert (refused.code, refused.json["error"]["type"]) == (1, "DatabaseRestored")

        doubtful = stack.ask("restored", "--dry-run")
        assert {p["workspace_id"] for p in doubtful["prebuilds"]} == alices, "all of the backup's pool"
        told = {(c["workspace_id"], c["claimed_by"]) for c in doubtful["claimed"]}
        assert told == {(workspace_id, "alice") for workspace_id in alices}, "whose they are, by what the host knows"
        stack.ask("restored")
        stack.wait_whole(ORGANIZATION)
        bobs = stack.ask("claim", "--preset", f"{ORGANIZATION}/python/small", "--owner", "bob", "--name", "b")
        assert bobs["workspace_id"] not in alices
        until(lambda: all(stack.ask("workspaces", "show", w)["status"] == "quarantined" for w in alices), "quarantine")
        assert {w: stack.processes()[w] for w in alices} == pids, "what alice has runs on, untouched"
        for workspace_id in alices:
            marks = stack.state_dir / "workspaces" / workspace_id
            assert "alice" in "".join(path.read_text() for path in marks.glob("*.json"))
    finally:
        stack.stop()
