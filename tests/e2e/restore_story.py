"""A backup restored under a running deployment gives nobody another person's workspace, and removes nothing of theirs.

The steps are those of docs/operations.md, "Backup, restore, failover", but for stopping the workers first: what an
operator forgets must do no harm.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from prebuilds.payloads import ClaimResult
from prebuilds.stack.postgres import wheel_bin_dir
from prebuilds.store.engine import dsn_of
from tests.e2e.dev_stack import DevStack, until

ORGANIZATION = "bakery"


def psql(program: str, url: str, *words: str) -> None:
    subprocess.run([wheel_bin_dir() / program, f"--dbname={dsn_of(url)}", *words], check=True, capture_output=True)


def restore(stack: DevStack, dump: Path) -> None:
    """Replace the database by the backup, whoever is connected."""
    url = urlsplit(stack.facts["database_url"])
    server, database = urlunsplit(url._replace(path="/postgres")), url.path.removeprefix("/")
    psql("psql", server, "-c", f'DROP DATABASE "{database}" WITH (FORCE)')
    psql("psql", server, "-c", f'CREATE DATABASE "{database}"')
    psql("pg_restore", stack.facts["database_url"], "--single-transaction", str(dump))


def harms_nobody(stack: DevStack, folder: Path, running: Callable[[], dict[str, Any]]) -> None:
    """Restore a backup under `ORGANIZATION`'s running pool of three, and check that nobody is harmed.

    Args:
        running: Returns what runs now by workspace id; values are equal only for the same processes or containers.
    """
    stack.wait_whole(ORGANIZATION)
    dump = folder / "backup"
    psql("pg_dump", stack.facts["database_url"], "--format=custom", f"--file={dump}")

    claimed = [c for c in stack.claim_at_once(ORGANIZATION, ["a", "b", "c"]) if isinstance(c, ClaimResult)]
    alices = {str(c.workspace_id) for c in claimed}
    assert len(alices) == 3
    stack.wait_whole(ORGANIZATION)
    until(lambda: all(_is_handed_over(stack, workspace_id) for workspace_id in alices), "the hand-overs to end")
    theirs = {workspace_id: running()[workspace_id] for workspace_id in alices}

    restore(stack, dump)
    until(lambda: not stack.cli("doctor", "--json").json["ok"], "the restore to be noticed", 90)
    checks = {c["name"]: c for c in stack.cli("doctor", "--json").json["checks"]}
    assert "prebuilds restored" in checks["history"]["remedy"]
    claim = ("claim", "--preset", f"{ORGANIZATION}/python/small", "--owner", "bob", "--name", "b")
    refused = stack.cli(*claim, "--json")
    assert (refused.code, refused.json["error"]["type"]) == (1, "DatabaseRestored")

    doubtful = stack.ask("restored", "--dry-run")
    assert {p["workspace_id"] for p in doubtful["prebuilds"]} == alices, "all of the backup's pool"
    claims = {(c["workspace_id"], c["claimed_by"]) for c in doubtful["claimed"]}
    assert claims == {(workspace_id, "alice") for workspace_id in alices}, "whose they are, by what the host knows"

    stack.ask("restored")
    stack.wait_whole(ORGANIZATION)
    assert stack.ask(*claim)["workspace_id"] not in alices
    until(lambda: all(_status(stack, workspace_id) == "quarantined" for workspace_id in alices), "quarantine")
    assert {workspace_id: running()[workspace_id] for workspace_id in alices} == theirs, "alice's run on, untouched"

    one = sorted(alices)[0]
    stack.ask("workspaces", "transfer", one, "--to", "alice", "--name", "again")
    until(lambda: _status(stack, "alice/again") == "running", "alice to have hers back", 30, stack.log)
    stack.ask("release", "alice/again", "--wait")
    until(lambda: one not in running(), "its owner's release to remove it")


def _is_handed_over(stack: DevStack, workspace_id: str) -> bool:
    builds = stack.shown(workspace_id)["builds"]
    return all(build["status"] == "succeeded" for build in builds)


def _status(stack: DevStack, workspace: str) -> str:
    return str(stack.shown(workspace)["status"])
