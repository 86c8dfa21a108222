"""The branches of each workflow that a stored history must show, so that replay guards them."""

from __future__ import annotations

CASES: dict[str, dict[str, str]] = {
    "PrebuildsOrchestrator": {
        "worker-lost": "find_work task-lost find_work child end_pass",
        "asked": "signal:halt update:reconcile answered signal:set_interval timer-canceled timer",
        "preset-busy": "child child-refused timer fired child child-completed",
        "stopped": "find_work child child-completed end_pass signal:stop record_stop completed:stopped",
        "stopped-in-mid-pass": "find_work child signal:stop record_stop child-completed end_pass completed:stopped",
        "canceled": "find_work cancel-requested record_stop completed:stopped",
        "renewed-when-idle": "!cancel-requested find_work end_pass continued",
        "renewed-amid-work": "find_work child child update:reconcile signal:halt child-completed answered continued",
        "went-on": "started:carried timer find_work child child-completed",
    },
    "ReconcilePreset": {
        "creates": "plan_reconcile create_prebuilds completed !delete_prebuilds !cancel_builds",
        "deletes": "plan_reconcile delete_prebuilds completed !create_prebuilds !cancel_builds",
        "replaces": "plan_reconcile delete_prebuilds create_prebuilds completed",
        "cancels": "plan_reconcile delete_prebuilds cancel_builds completed",
        "moves": "plan_reconcile move_prebuilds create_prebuilds completed",
        "does-nothing": "plan_reconcile completed !*_prebuilds !cancel_builds",
        "step-fails": "plan_reconcile *_prebuilds:failed completed",
        "refused": "plan_reconcile:failed failed:PresetNotFound",
    },
    "WorkspaceBuild": {
        "succeeds": "run_build completed:succeeded !again",
        "fails": "run_build completed:failed !close_build",
        "repeats": "run_build again completed:succeeded",
        "times-out": "run_build timed-out:START_TO_CLOSE close_build completed:failed",
        "canceled-at-work": "run_build cancel-requested step-cancel-requested completed:canceled !close_build",
        "canceled-in-queue": "run_build cancel-requested step-cancel-requested step-canceled close_build *canceled",
        "canceled-and-lost": "run_build step-cancel-requested timed-out:HEARTBEAT close_build completed:canceled",
        "moves": "run_build again run_build completed:succeeded",
        "host-away": "run_build timed-out:SCHEDULE_TO_START host_is_there close_build completed:failed",
        "ended-before": "locate_build completed:succeeded !run_build",
        "unknown": "locate_build:failed failed:WorkspaceNotFound",
    },
    "ClaimWorkspace": {
        "wins": "claim completed:prebuilt !timer",
        "creates": "claim completed:created !timer",
        "refused": "claim:failed failed:NoClaimablePrebuiltWorkspaces",
        "tries-again": "claim:failed timer fired claim completed:prebuilt",
        "waits-and-wins": "claim timer signal:wake look_in_queue completed:prebuilt",
        "waits-in-vain": "claim timer fired look_in_queue leave_queue failed:ClaimTimedOut",
        "waits-and-creates": "claim timer fired leave_queue create_instead completed:created",
        "waits-and-is-canceled": "claim timer cancel-requested leave_queue canceled",
        "still-waits": "claim timer fired look_in_queue timer !failed:* !completed* !canceled",
        "canceled-before": "cancel-requested leave_queue canceled !claim",
    },
    "ClaimWorkspaces": {
        "wins": "claim_all completed",
        "refused": "claim_all:failed failed:*",
        "canceled-before": "cancel-requested cancel_all* !claim_all*",
    },
    "OperatorRequest": {
        "answered": "operate completed",
        "refused": "operate step-failed:* failed:* !end_request",
        "canceled-at-work": "operate cancel-requested step-cancel-requested end_request canceled",
    },
    "ReconcileInventory": {
        "looks": "list_places look completed !timed-out:*",
        "place-away": "list_places look timed-out:SCHEDULE_TO_START completed",
    },
    "DrillTemplate": {
        "succeeds": "begin_drill take_prebuild watch_build try_drilled release_drilled watch_build completed:succeeded",
        "build-fails": "take_prebuild watch_build release_drilled watch_build end_drill completed:failed !try_drilled",
        "check-fails": "take_prebuild watch_build try_drilled release_drilled end_drill completed:failed",
        "skipped": "begin_drill completed:skipped !take_prebuild",
        "not-spared": "take_prebuild step-failed:* release_drilled end_drill completed:skipped !watch_build",
        "canceled": "watch_build cancel-requested release_drilled watch_build end_drill completed:skipped",
        "unknown": "begin_drill failed:DrillNotFound",
    },
    "LintPreset": {
        "plans": "find_candidates plan_claim completed",
        "host-away": "find_candidates plan_claim timed-out:SCHEDULE_TO_START failed:ProvisionerUnavailable",
        "refused": "find_candidates step-failed:* failed:*",
    },
}
"""By workflow type and case: the steps that its history has, as `steps.shows` reads them."""
