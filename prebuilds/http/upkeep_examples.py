"""Examples of answers about builds, people, tokens, the queue and upkeep. The others are in `examples.py`."""

from __future__ import annotations

from prebuilds.http.examples import CHANGE, EVENT, JOB, PRESET, WORKSPACE, Example

LOGGED_BUILD: Example = {
    "id": JOB["build_id"],
    "workspace_id": WORKSPACE["id"],
    "transition": "start",
    "stage": "claim",
    "status": "succeeded",
    "error": None,
    "created_at": JOB["created_at"],
    "completed_at": JOB["completed_at"],
    "released_at": None,
    "logged": True,
}
BUILD_RESULT: Example = {
    "status": "succeeded",
    "error": None,
    "replacements": [],
    "address": WORKSPACE["address"],
}
LIMIT: Example = {"organization": "acme", "limit": "pool_members", "maximum": 200, "used": 37}
TRANSFERRED: Example = CHANGE | {
    "transition": "start",
    "status": "starting",
    "workspace": "bob/alice-dev",
    "from_workspace": "alice/alice-dev",
}
PRUNED: Example = {"pruned": 2, "kept": 1}
FINDING: Example = {
    "workspace_id": WORKSPACE["id"],
    "provisioner": "process",
    "host": "host-1",
    "finding": "orphan",
    "first_seen_at": "2026-03-02T09:10:00Z",
    "last_seen_at": "2026-03-02T09:14:00Z",
    "sightings": 2,
    "action": "none",
    "age_seconds": 5400,
    "claimed_by": None,
    "claim_id": None,
}
INVENTORY: Example = {"findings": [FINDING], "unavailable": [], "fix": False, "omitted": 0}
MEMBER: Example = {"user": "alice", "disabled": False, "workspaces": 1}
USER: Example = {
    "user": "alice",
    "disabled": False,
    "disabled_at": None,
    "organizations": ["acme"],
    "workspaces": 1,
    "created_at": "2026-03-01T08:00:00Z",
}
LEFT_WORKSPACE: Example = {
    "workspace_id": WORKSPACE["id"],
    "workspace": "alice/alice-dev",
    "organization": "acme",
    "status": "running",
}
LEAVING: Example = {
    "organization": "acme",
    "users": [{"user": "alice", "changed": True, "workspaces": [LEFT_WORKSPACE], "waiting_claims": []}],
}
TOKEN: Example = {
    "id": "6d3c1d55-0f0e-4b61-8a51-5b0f6a2f7c1e",
    "name": "ci",
    "scopes": ["claim:others:acme"],
    "user": None,
    "state": "good",
    "created_at": "2026-03-01T08:00:00Z",
    "created_by": "alice",
    "expires_at": None,
    "last_used_at": "2026-03-02T09:14:00Z",
    "revoked_at": None,
    "revoked_by": None,
}
TOKEN_CREATED: Example = {
    "token": "pbt_...",
    "id": TOKEN["id"],
    "name": "ci",
    "scopes": ["claim:others:acme"],
    "user": None,
    "expires_at": None,
}
CLAIM_EXPLAINED: Example = {
    "claim_id": "ticket-17",
    "outcome": "prebuilt",
    "position": None,
    "deadline": None,
    "miss_reason": None,
    "error": None,
    "workspace_id": WORKSPACE["id"],
    "preset_id": PRESET["preset_id"],
    "created_at": "2026-03-02T09:14:00Z",
    "completed_at": "2026-03-02T09:14:00Z",
    "events": [EVENT],
}
WAITING: Example = {
    "claim_id": "ticket-18",
    "preset": "acme/python/small",
    "owner": "bob",
    "name": "bob-dev",
    "initiator": "bob",
    "position": 1,
    "queued_at": "2026-03-02T09:14:00Z",
    "deadline": "2026-03-02T09:19:00Z",
}
ORCHESTRATOR: Example = {
    "state": "running",
    "cause": None,
    "passes": 1204,
    "started_at": "2026-03-02T04:13:00Z",
    "last_pass_at": "2026-03-02T09:13:55Z",
    "next_pass_at": "2026-03-02T09:14:10Z",
    "interval_seconds": 15,
    "reconciling": [],
    "waiting": [],
    "ignored": [],
    "ignored_count": 0,
}
