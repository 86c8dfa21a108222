"""Template files for tests of reading them: one with every key, and a valid one that a test changes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from prebuilds.api import InvalidInput
from prebuilds.templates import parse_template_file

CONTRACT = """
organizations:
  - name: acme
    prebuilds: false
    members: [alice, bob]
    members_exact: true
    limits: {workspaces: 500, workspaces_per_member: 5, claims_per_minute: 60, pool_members: 200}
    templates:
      - name: python
        provisioner: process
        queue: gpu
        build_timeout: 20m
        ready_timeout: 90s
        source: {command: ["python3", "-m", "http.server", "{port}"], ready: {http: "/"}}
        default_ttl: 8h
        drill: {schedule: "0 3 * * *", timezone: Europe/Berlin, command: ["true"], parameters: DRILL_P, timeout: 90s}
        rollout: {strategy: surge, max_surge: 10%, max_unavailable: 1, serve_old: true}
        canary: {percent: 10, for: 30m, min_claims: 20, max_failure: 5%, slower_than: 2}
        presets:
          - name: small
            parameters: {size: small}
            instances: 3
            expire_after: 24h
            default: true
            claim_parameters: [token]
            timezone: Europe/Berlin
            schedule:
              - {cron: "* 8-18 * * 1-5", instances: 10}
              - {cron: "* 19-20 * * 1-5", min: 4}
            ready_by: true
            target: {hit_rate: 0.99, min: 2, max: 40, max_idle: 20, max_paused: 30, paused_cost: 0.2, mode: act}
            cost_per_hour: 0.12
            standby: {paused: 5}
            max_concurrent: 10
"""

TEMPLATE = "organizations[acme].templates[python]"
PRESET = f"{TEMPLATE}.presets[small]"


def written(
    preset: dict[str, Any] | None = None,
    template: dict[str, Any] | None = None,
    organization: dict[str, Any] | None = None,
) -> str:
    """Return a valid file with these changes; None removes a key."""
    small = merged({"name": "small"}, preset)
    python = merged(
        {"name": "python", "provisioner": "process", "source": {"command": ["sleep", "1"]}, "presets": [small]},
        template,
    )
    return yaml.safe_dump({"organizations": [merged({"name": "acme", "templates": [python]}, organization)]})


def merged(entry: dict[str, Any], changes: dict[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (entry | (changes or {})).items() if value is not ...}


def problems(text: str) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        parse_template_file(text)
    for path, message in caught.value.details.items():
        assert f"{path}: {message}" in str(caught.value)
    return caught.value.details
