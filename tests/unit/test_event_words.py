"""The text that an operator reads for each recorded event."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from prebuilds.views import EventRow
from prebuilds.vocabulary.words import clock, held_in_words, in_words

AT = datetime(2026, 3, 2, 9, 14, 3, tzinfo=UTC)
FIGURES = {"pass": 4, "desired": 7, "window": "* 9-17 * * 1-5", "actual": 5, "expired": 0, "starting": 0}
FEW = {**FIGURES, "window": None, "expired": 2}
SOON, TOMORROW = "2026-03-02T14:03:10+00:00", "2026-03-03T01:00:00+00:00"
CHANGES = {"instances": [2, 3], "timezone": [None, "UTC"]}
CREATE, DELETE = {"transition": "start", "stage": "create"}, {"transition": "delete", "stage": "none"}
DEV = {"owner": "alice", "name": "dev"}

WORDS: list[tuple[str, dict[str, Any], str]] = [
    (
        "prebuilds_created",
        {**FIGURES, "workspaces": ["a", "b"]},
        "created 2: desired 7 (window * 9-17 * * 1-5), actual 5, starting 0",
    ),
    ("prebuilds_created", {**FEW, "workspaces": ["a"]}, "created 1: desired 7, actual 5, expired 2, starting 0"),
    (
        "prebuilds_deleted",
        {**FIGURES, "reasons": {"expired": ["a", "b"], "extraneous": ["c"]}},
        "deleted 3: expired 2, extraneous 1",
    ),
    ("creations_canceled", {"workspaces": ["a", "b"], "cause": "inactive"}, "canceled 2 creations: inactive"),
    ("creation_held", {"reason": "backoff", "until": SOON}, "creation held: backoff until 14:03:10+00:00"),
    (
        "creation_held",
        {"reason": "backoff", "until": TOMORROW},
        "creation held: backoff until 2026-03-03 01:00:00+00:00",
    ),
    ("creation_held", {"reason": "hard_limited", "until": None}, "creation held: hard_limited"),
    ("holds_lifted", {"hold": "hard_limited", "until": None}, "hold lifted by ops: hard_limited"),
    (
        "schedule_unreadable",
        {"why": "timezone X is not known", "base": 2},
        "schedule passed over, base 2 used: timezone X is not known",
    ),
    ("invalidated", {"prebuilds": 3}, "invalidated by ops: 3 to be replaced"),
    ("pruned", {"failed": True, "stopped": False, "workspaces": ["a"]}, "pruned 1 by ops: failed"),
    ("pruned", {"failed": True, "stopped": True, "workspaces": ["a"]}, "pruned 1 by ops: failed and stopped"),
    ("kept", {"name": "prebuild-1"}, "prebuild-1 kept by ops"),
    ("keep_undone", {"name": "prebuild-1"}, "prebuild-1 no longer kept by ops"),
    ("version_activated", {"version": 2, "replaces": 1}, "version 2 activated by ops, replacing 1"),
    ("version_activated", {"version": 1, "replaces": None}, "version 1 activated by ops"),
    ("pool_kept", {"version": 2, "replaces": 1}, "version 2 activated by ops: same content as in 1, pool kept"),
    (
        "policy_changed",
        {"what": "preset a/b/c", "changes": CHANGES},
        "preset a/b/c changed by ops: instances from 2 to 3, timezone from None to UTC",
    ),
    ("applied", {"created": ["a", "b"], "updated": ["c"]}, "applied by ops: created a, b; updated c"),
    ("applied", {"created": [*"abcd"], "updated": []}, "applied by ops: created 4, such as d"),
    ("rollout_started", {"from": 1, "to": 2}, "rollout from version 1 to 2 begun by ops"),
    ("rollout_progress", {"to": 2, "progress": 50}, "rollout to version 2: 50% of the prebuilds are new"),
    (
        "rollout_failed",
        {"to": 2, "reason": "small: hard_limited"},
        "rollout to version 2 failed, the old version stays: small: hard_limited",
    ),
    ("rollout_undone", {"to": 2, "by_version": 1}, "rollout to version 2 undone: version 1 became active"),
    ("rollout_paused", {"to": 2}, "rollout to version 2 paused by ops"),
    ("canary_passed", {"to": 2}, "canary of version 2 passed: it goes on to all"),
    (
        "canary_failed",
        {"from": 1, "to": 2, "reason": "small: hard_limited"},
        "canary of version 2 failed, version 1 is active again: small: hard_limited",
    ),
    ("template_deprecated", {"template": "a/b"}, "template deprecated by ops"),
    ("template_restored", {"template": "a/b"}, "template restored by ops"),
    ("template_deleted", {"template": "a/b"}, "template deleted by ops"),
    ("paused", {"reason": "upgrade"}, "paused by ops: upgrade"),
    ("resumed", {}, "resumed by ops"),
    ("deployment_bound", {"namespace": "default"}, "bound to the Temporal namespace default by ops"),
    ("loop_stopped", {"cause": "maintenance"}, "loop stopped by ops: maintenance"),
    ("loop_started", {"interval_seconds": None}, "loop started by ops"),
    ("loop_started", {"was": "running"}, "loop started again, since it had ended unasked"),
    ("loop_started", {"was": "never_started"}, "loop started by ops"),
    ("build_succeeded", {**CREATE, "error": None}, "start (create) succeeded"),
    ("build_failed", {**CREATE, "error": "no disk"}, "start (create) failed: no disk"),
    (
        "build_failed",
        {**CREATE, "error": "its log ends with:\nno license"},
        "start (create) failed: its log ends with: no license",
    ),
    (
        "build_failed",
        {**CREATE, "error": "its log ends with:\na\nb\n\nc\n"},
        "start (create) failed: its log ends with: ... c",
    ),
    ("build_failed", {**DELETE, "error": ""}, "delete failed"),
    ("build_canceled", {**DELETE, "error": None}, "delete canceled"),
    ("claim_prebuilt", {**DEV, "miss_reason": None}, "claimed by ops as alice/dev"),
    ("member_added", {"user": "zoe@example.com", "organization": "acme"}, "zoe@example.com added to acme by ops"),
    (
        "lease_ending",
        {"lease_until": SOON, "release_at": TOMORROW},
        "lease ends at 14:03:10+00:00; released at 2026-03-03 01:00:00+00:00 unless renewed",
    ),
    ("lease_renewed", {"lease_seconds": 600, "lease_until": SOON}, "lease renewed by ops until 14:03:10+00:00"),
    ("acted", {"reason": "lease"}, "released, as its lease has ended"),
    ("acted", {"reason": "ttl"}, "acted by ops: reason ttl"),
    ("transferred", {"from": "alice/dev", "to": "bob/desk"}, "alice/dev handed to bob/desk by ops"),
    (
        "claim_created",
        {**DEV, "miss_reason": "starting"},
        "claim by ops: created alice/dev, as nothing was ready: starting",
    ),
    ("claim_missed", {**DEV, "miss_reason": "empty"}, "claim by ops for alice/dev missed: empty"),
    (
        "claim_passed_over",
        {"limit": "workspaces_per_member", "maximum": 5, "used": 5},
        "passed over in the queue: workspaces_per_member is 5, and 5 are used",
    ),
    ("job_canceled", {}, "job canceled by ops"),
    ("of_another_release", {"why": "said\nso", "n": 1}, "of another release by ops: why said so, n 1"),
    ("prebuilds_created", {"count": 2}, "prebuilds created by ops: count 2"),
    ("creation_held", {"reason": "backoff", "until": "soon"}, "creation held by ops: reason backoff, until soon"),
]


@pytest.mark.parametrize(("kind", "data", "words"), WORDS, ids=[f"{n}-{word[0]}" for n, word in enumerate(WORDS)])
def test_an_event_is_one_line_of_plain_words(kind: str, data: dict[str, Any], words: str) -> None:
    assert in_words(EventRow(at=AT, kind=kind, actor="ops", data=data), UTC) == words


def test_times_are_the_readers_own_and_say_whose() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    late = datetime(2026, 3, 2, 23, 30, tzinfo=UTC)
    assert clock(late, AT, UTC) == "23:30:00+00:00"
    assert clock(late, AT, berlin) == "2026-03-03 00:30:00+01:00", "another day there"
    assert clock(late, None, UTC) == "2026-03-02 23:30:00+00:00"
    assert held_in_words("backoff", late, AT, UTC) == "backoff until 23:30:00+00:00"
    assert held_in_words("paused", None) == "paused"
