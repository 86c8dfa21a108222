"""Examples of answers, for the documentation. A test holds each to its model."""

from __future__ import annotations

from typing import Any

Example = dict[str, Any]

WORKSPACE: Example = {
    "id": "0b8ad3a2-91a6-4f49-9cb4-5a9fdd3f43ab",
    "name": "alice-dev",
    "owner": "alice",
    "organization": "acme",
    "template": "python",
    "preset_id": "7b1de5d1-5e0b-5d52-9f0c-8f4f5d1d8a61",
    "preset": "small",
    "version": 1,
    "status": "running",
    "prebuilt": True,
    "ready": True,
    "address": "http://127.0.0.1:40123",
    "created_at": "2026-03-02T08:50:11Z",
    "claimed_at": "2026-03-02T09:14:00Z",
    "ttl_seconds": 28800,
}
JOB: Example = {
    "build_id": "3d0a4c0e-1b0d-5f26-8d3b-1f6f7c1a2b3c",
    "workspace_id": WORKSPACE["id"],
    "workspace": "alice/alice-dev",
    "preset_id": WORKSPACE["preset_id"],
    "preset": "acme/python/small",
    "transition": "start",
    "stage": "claim",
    "status": "succeeded",
    "initiator": "alice",
    "queue": "prebuilds-provisioner",
    "created_at": "2026-03-02T09:14:00Z",
    "started_at": "2026-03-02T09:14:00.4Z",
    "completed_at": "2026-03-02T09:14:01Z",
    "error": None,
}
EVENT: Example = {
    "at": "2026-03-02T09:14:00Z",
    "kind": "claim_prebuilt",
    "actor": "alice",
    "data": {"name": "alice-dev"},
}
EVENT_RECORD: Example = EVENT | {
    "id": 1204,
    "organization": "acme",
    "preset_id": WORKSPACE["preset_id"],
    "workspace_id": WORKSPACE["id"],
    "build_id": None,
    "claim_id": "ticket-17",
}
DETAILS: Example = WORKSPACE | {
    "resources": {"pid": 4711},
    "host": "host-1",
    "autostart_schedule": "CRON_TZ=Europe/Berlin 30 9 * * 1-5",
    "next_start_at": "2026-03-03T08:30:00Z",
    "next_action_at": "2026-03-02T17:14:00Z",
    "builds": [JOB],
    "events": [EVENT],
    "warnings": [],
    "quarantine_reason": None,
}
CHANGE: Example = {
    "workspace_id": WORKSPACE["id"],
    "workspace": "alice/alice-dev",
    "transition": "stop",
    "status": "stopping",
    "build_id": JOB["build_id"],
    "changed": True,
}
SETTINGS: Example = {
    "workspace_id": WORKSPACE["id"],
    "workspace": "alice/alice-dev",
    "ttl_seconds": 28800,
    "autostart_schedule": "CRON_TZ=Europe/Berlin 30 9 * * 1-5",
    "next_start_at": "2026-03-03T08:30:00Z",
    "next_action_at": "2026-03-02T17:14:00Z",
    "changed": True,
}
RENEWED: Example = {
    "workspace_id": WORKSPACE["id"],
    "workspace": "alice/alice-dev",
    "lease_seconds": 600,
    "lease_until": "2026-03-02T09:24:00Z",
}
RELEASED: Example = {"workspace_id": WORKSPACE["id"], "build_id": JOB["build_id"]}
ABANDONED: Example = {
    "workspace_id": WORKSPACE["id"],
    "workspace": "alice/alice-dev",
    "build_id": JOB["build_id"],
    "error": "the cloud account refuses the credentials",
    "host": None,
    "left": {"aws_instance.vm": {"id": "i-0123456789abcdef0"}},
}
KEPT: Example = {"workspace_id": WORKSPACE["id"], "kept": True, "changed": True}
PRESET: Example = {
    "preset_id": WORKSPACE["preset_id"],
    "organization": "acme",
    "template": "python",
    "version": 1,
    "preset": "small",
    "active": True,
    "instances": 3,
    "expire_after_seconds": 86400,
    "default": False,
    "parameters": {"size": "small"},
    "claim_parameters": ["token"],
    "timezone": "Europe/Berlin",
    "schedule": [{"cron": "* 8-18 * * 1-5", "instances": 10}],
    "ready_by": True,
    "head_start_seconds": 180,
    "target": {
        **{"hit_rate": 0.99, "wait_p95_seconds": None, "min": 2, "max": 40, "max_idle": None},
        "mode": "suggest",
    },
    "size": 7,
    "cost_per_hour": 0.12,
    "max_concurrent": 10,
    "last_invalidated_at": None,
    "limit_reset_at": None,
    "ready": 0,
    "starting": 3,
    "estimated_wait_seconds": 12.5,
}
INVALIDATED: Example = {"presets": 1, "prebuilds": 3}
LIFTED: Example = {"preset_id": PRESET["preset_id"], "preset": "acme/python/small", "lifted": "hard_limited"}
EXPLAINED: Example = {
    "preset": "acme/python/small",
    "preset_id": PRESET["preset_id"],
    "at": "2026-03-02T09:14:00Z",
    "desired": 10,
    "window": "* 8-18 * * 1-5",
    "base": 3,
    "settings_recorded": True,
    "held": None,
    "held_until": None,
    "events": [EVENT],
    "next": None,
}
SIZED: Example = {
    "preset": "acme/python/small",
    "preset_id": PRESET["preset_id"],
    "begins_at": "2026-02-16T09:14:00Z",
    "ends_at": "2026-03-02T09:14:00Z",
    "scored_from": "2026-02-23T09:14:00Z",
    "claims": 8207,
    "lead_seconds": 120,
    "target": {"hit_rate": 0.99, "wait_p95_seconds": None, "min": 2, "max": 40, "max_idle": None},
    "met": True,
    "enough_history": True,
    "lines": [
        {
            "rule": "rate of 60 min x 1.25, Erlang B",
            "today": False,
            "chosen": True,
            "met": True,
            "hit_rate": 0.9927,
            "wait_p95_seconds": 0,
            "wait_p99_seconds": 0,
            "idle_mean": 3.3,
            "idle_peak": 13,
            "member_hours": 612.5,
            "cost": 73.5,
            "size_now": 6,
        }
    ],
    "parts": [
        {"begins_at": "2026-02-23T09:14:00Z", "claims": 118, "size": 9, "missed": 1, "today_size": 8, "today_missed": 4}
    ],
    "suggestion": "target: {hit_rate: 0.99, min: 2, max: 26, mode: suggest}",
}
LINTED: Example = {
    "preset": "acme/python/small",
    "preset_id": PRESET["preset_id"],
    "workspace_id": WORKSPACE["id"],
    "replacements": [],
}
LOOP: Example = {
    "state": "running",
    "cause": None,
    "last_pass_at": "2026-03-02T09:13:55Z",
    "passes": 1204,
    "paused": False,
    "paused_reason": None,
    "paused_by": None,
    "note": None,
}
POOL: Example = {
    "preset_id": PRESET["preset_id"],
    "organization": "acme",
    "template": "python",
    "version": 1,
    "preset": "small",
    "active": True,
    "desired": 10,
    "actual": 9,
    "eligible": 9,
    "expired": 0,
    "extraneous": 0,
    "starting": 1,
    "stopping": 0,
    "deleting": 0,
    "held": None,
    "held_until": None,
    "waiting": 0,
    "pending_builds": 0,
    "failed": 0,
    "last_error": None,
    "warnings": [],
}
STATUS: Example = {
    "deployment_id": "5e3f1a9a-36f0-4b1e-8d1d-64a7f6f0a2c1",
    "loop": LOOP,
    "presets": [POOL],
    "next": None,
}
LINE: Example = {"build_id": JOB["build_id"], "at": "2026-03-02T09:14:00Z", "line": "listening at port 40123"}
TEMPLATE: Example = {
    "id": "9e2f6c1d-8a35-4c47-9f63-0d6b8f3f2b11",
    "organization": "acme",
    "template": "python",
    "provisioner": "process",
    "queue": "prebuilds-provisioner",
    "version": 1,
    "deprecated": False,
    "presets": 1,
    "workspaces": 4,
}
ROLLOUT: Example = {
    "id": "5b1f0a52-9d0c-4b63-9c55-0f4d3f0c9a11",
    "template": "acme/python",
    "from_version": 3,
    "to_version": 4,
    "state": "running",
    "reason": None,
    "progress": 50,
    "strategy": "surge",
    "started_by": "ops",
    "started_at": "2026-03-02T09:14:00Z",
    "ended_at": None,
    "pools": [
        {
            "preset": "small",
            "desired": 20,
            "new_ready": 10,
            "new_starting": 5,
            "old_ready": 10,
            "old_starting": 0,
            "held": None,
        }
    ],
}
DRILL: Example = {
    "id": "f3c2a9d4-5b8e-4f1a-a1d0-3f6c8e2b7d90",
    "template": "acme/python",
    "preset": "small",
    "version": 1,
    "requested_by": None,
    "due_at": "2026-03-02T03:00:00Z",
    "status": "failed",
    "stage": "check",
    "reason": "the check's command ended with status 1",
    "evidence": ["ModuleNotFoundError: No module named 'numpy'"],
    "usable_seconds": 0.4,
    "workspace_id": WORKSPACE["id"],
    "build_id": JOB["build_id"],
    "claimed_at": "2026-03-02T03:00:01Z",
    "created_at": "2026-03-02T03:00:01Z",
    "ended_at": "2026-03-02T03:00:03Z",
}
TEMPLATE_CHANGE: Example = {
    "id": TEMPLATE["id"],
    "template": "acme/python",
    "deprecated": True,
    "deleted": False,
    "changed": True,
}
TEMPLATE_FILE = """\
organizations:
  - name: acme
    members: [alice, bob]
    templates:
      - name: python
        provisioner: process
        source: {command: ["python3", "-m", "http.server", "{port}"], ready: {http: "/"}}
        presets:
          - {name: small, instances: 3, expire_after: 24h}
"""
TEMPLATE_FILE_AS_JSON: Example = {
    "organizations": [
        {
            "name": "acme",
            "members": ["alice", "bob"],
            "templates": [
                {
                    "name": "python",
                    "provisioner": "process",
                    "source": {"command": ["python3", "-m", "http.server", "{port}"], "ready": {"http": "/"}},
                    "presets": [{"name": "small", "instances": 3, "expire_after": "24h"}],
                }
            ],
        }
    ]
}
APPLIED: Example = {
    "created": ["organization acme", "template acme/python", "preset acme/python/small"],
    "updated": [],
    "unchanged": [],
    "versions": [{"template": "acme/python", "version": 1, "id": "4a1f5f60-0d7a-4c8e-8f0b-9f6a5f7a0c11"}],
    "changes": [],
    "replaced": [],
    "removed": [],
    "kept": [],
}
DOCTOR: Example = {
    "ok": True,
    "deployment_id": STATUS["deployment_id"],
    "checks": [{"name": "database", "ok": True, "remedy": None, "detail": "PostgreSQL 18.0"}],
}
SNAPSHOT: Example = {"taken_at": "2026-03-02T09:14:00Z", "paused": False, "passes": 1204, "presets": []}
