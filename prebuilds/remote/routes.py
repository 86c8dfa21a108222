"""The routes of the HTTP API that callers use, and which argument of a call goes where.

A test compares this table with the server's own OpenAPI document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

_IN_PATH = re.compile(r"\{(\w+)\}")

ANSWER_S = 30.0
"""How long most answers may take, in seconds."""
HELD_S = 75.0
"""How long an answer may take that the server holds for up to a minute."""
LONG_S = 300.0
"""How long an answer may take to a request that changes any number of rows."""
LINT_S = 600.0
"""How long a lint may take: a provisioner's plan takes minutes when the cloud's API is slow."""


@dataclass(frozen=True, slots=True)
class Route:
    """One kind of request."""

    method: str
    path: str
    """Its parts in braces are arguments."""
    query: tuple[str, ...] = ()
    """Arguments that are sent as parameters."""
    body: tuple[str, ...] = ()
    """Arguments that are sent as fields of a JSON object."""
    answer_s: float = ANSWER_S
    repeats: bool = True
    """Whether the same request a second time does no harm, so that it is sent again when its answer was lost."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of everything that the route takes."""
        return (*_IN_PATH.findall(self.path), *self.query, *self.body)

    def address(self, arguments: Mapping[str, Any]) -> str:
        """The path with the arguments in it, percent-encoded."""
        return _IN_PATH.sub(lambda part: encoded(str(arguments[part[1]])), self.path)


def encoded(text: str) -> str:
    """*text* as one part of a path. Dots alone would mean another folder, so they are encoded then, too."""
    part = quote(text, safe="")
    return part.replace(".", "%2E") if part.strip(".") == "" else part


PAGE = ("limit", "after")

HEALTH = Route("GET", "/healthz", answer_s=5.0)

PUT_CLAIM = Route("PUT", "/v1/claims/{claim_id}")
GET_CLAIM = Route("GET", "/v1/claims/{claim_id}", answer_s=HELD_S)
DELETE_CLAIM = Route("DELETE", "/v1/claims/{claim_id}")
EXPLAIN_CLAIM = Route("GET", "/v1/claims/{claim_id}/explain")
LIST_WAITING = Route("GET", "/v1/waiting", query=("preset", *PAGE))

LIST_WORKSPACES = Route("GET", "/v1/workspaces", query=("owner", "preset", "prebuilt", *PAGE))
SHOW_WORKSPACE = Route("GET", "/v1/workspaces/{workspace}")
SET_WORKSPACE = Route(
    "PATCH", "/v1/workspaces/{workspace}", body=("ttl_seconds", "autostart_schedule", "lease_seconds")
)
RENEW_LEASE = Route("POST", "/v1/workspaces/{workspace}:renew", body=("lease_seconds",))
RELEASE_WORKSPACE = Route("DELETE", "/v1/workspaces/{workspace}")
START_WORKSPACE = Route("POST", "/v1/workspaces/{workspace}:start")
STOP_WORKSPACE = Route("POST", "/v1/workspaces/{workspace}:stop")
RETRY_WORKSPACE = Route("POST", "/v1/workspaces/{workspace}:retry")
ABANDON_WORKSPACE = Route("POST", "/v1/workspaces/{workspace}:abandon")
KEEP_WORKSPACE = Route("POST", "/v1/workspaces/{workspace}:keep", query=("undo",))
TRANSFER_WORKSPACE = Route("POST", "/v1/workspaces/{workspace}:transfer", body=("to", "name"))
PRUNE_WORKSPACES = Route(
    "POST", "/v1/workspaces:prune", query=("dry_run",), body=("failed", "stopped", "preset"), answer_s=LONG_S
)

LIST_JOBS = Route("GET", "/v1/jobs", query=("initiator", "status", "template", *PAGE))
CANCEL_JOBS = Route(
    "POST", "/v1/jobs:cancel", query=("dry_run",), body=("initiator", "status", "template"), answer_s=LONG_S
)
GET_BUILD = Route("GET", "/v1/builds/{build_id}", answer_s=HELD_S)
LIST_BUILDS = Route("GET", "/v1/builds", query=("of", "latest"))
LOGS = Route("GET", "/v1/logs/{reference}", answer_s=LONG_S)

LIST_PRESETS = Route("GET", "/v1/presets", query=("template", *PAGE))
EXPLAIN_PRESET = Route("GET", "/v1/presets/{preset}/explain", query=("at", *PAGE))
SIZE_PRESET = Route(
    "GET",
    "/v1/presets/{preset}/size",
    query=(
        *("hit_rate", "wait_p95_seconds", "last_seconds", "lead_seconds"),
        *("max_paused", "paused_cost", "promotion_seconds"),
    ),
    answer_s=HELD_S,
)
INVALIDATE_PRESET = Route("POST", "/v1/presets/{preset}:invalidate", repeats=False)
RESUME_PRESET = Route("POST", "/v1/presets/{preset}:resume")
LINT_PRESET = Route("POST", "/v1/presets/{preset}:lint", answer_s=LINT_S)

LIST_TEMPLATES = Route("GET", "/v1/templates", query=PAGE)
APPLY_TEMPLATES = Route("PUT", "/v1/templates", query=("dry_run",), answer_s=LONG_S)
DEPRECATE_TEMPLATE = Route("POST", "/v1/templates/{template}:deprecate", query=("undo",))
INVALIDATE_TEMPLATE = Route("POST", "/v1/templates/{template}:invalidate", repeats=False)
DELETE_TEMPLATE = Route("DELETE", "/v1/templates/{template}")

LIST_ROLLOUTS = Route("GET", "/v1/rollouts", query=("template", *PAGE))
SHOW_ROLLOUT = Route("GET", "/v1/templates/{template}/rollout")
PAUSE_ROLLOUT = Route("POST", "/v1/templates/{template}/rollout:pause")
RESUME_ROLLOUT = Route("POST", "/v1/templates/{template}/rollout:resume")
UNDO_ROLLOUT = Route("POST", "/v1/templates/{template}/rollout:undo", repeats=False)

LIST_DRILLS = Route("GET", "/v1/drills", query=("template", *PAGE))
RUN_DRILL = Route("POST", "/v1/drills", body=("target",))
SHOW_DRILL = Route("GET", "/v1/drills/{drill}")

STATUS = Route("GET", "/v1/status", query=PAGE)
SNAPSHOT = Route("GET", "/v1/snapshot", answer_s=LONG_S)
DOCTOR = Route("GET", "/v1/doctor", answer_s=HELD_S)
INVENTORY = Route("POST", "/v1/inventory", query=("fix",), answer_s=LONG_S)

GET_LOOP = Route("GET", "/v1/loop")
START_LOOP = Route("POST", "/v1/loop:start", body=("interval_seconds",))
STOP_LOOP = Route("POST", "/v1/loop:stop", body=("cause", "wait"), answer_s=HELD_S)
PAUSE_LOOP = Route("POST", "/v1/loop:pause", body=("reason",))
RESUME_LOOP = Route("POST", "/v1/loop:resume")
RECONCILE = Route("POST", "/v1/reconcile", body=("preset", "wait"), answer_s=HELD_S)

LIST_LIMITS = Route("GET", "/v1/limits", query=PAGE)
LIST_MEMBERS = Route("GET", "/v1/organizations/{organization}/members", query=PAGE)
ADD_MEMBERS = Route("POST", "/v1/organizations/{organization}/members:add", body=("users",))
REMOVE_MEMBERS = Route("POST", "/v1/organizations/{organization}/members:remove", body=("users",))
LIST_USERS = Route("GET", "/v1/users", query=("disabled", *PAGE))
DISABLE_USERS = Route("POST", "/v1/users:disable", body=("users",))
ENABLE_USERS = Route("POST", "/v1/users:enable", body=("users",))

LIST_TOKENS = Route("GET", "/v1/tokens", query=("revoked", *PAGE))
CREATE_TOKEN = Route("POST", "/v1/tokens", body=("name", "scopes", "user", "expires_seconds"), repeats=False)
REVOKE_TOKEN = Route("DELETE", "/v1/tokens/{name}")
CONFIRM_TOKENS = Route("POST", "/v1/tokens:confirm", body=("names",))

ROUTES: Mapping[str, Route] = {name: value for name, value in globals().items() if isinstance(value, Route)}
"""Every route, by its name here."""
