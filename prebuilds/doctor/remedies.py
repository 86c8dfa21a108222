"""Remedies that the checks of `prebuilds doctor` print, with the commands to type."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from prebuilds.vocabulary import ORCHESTRATOR_ID

START_DATABASE = "start `prebuilds dev`, or set PREBUILDS_DATABASE_URL to a running PostgreSQL 14 or later"
MIGRATE = "run `prebuilds migrate` as a database user that owns the schema"
REGISTER_ATTRIBUTES = "run `prebuilds init`, or have the cluster's operator add them with type Keyword"
REPLACE_ATTRIBUTES = "run `temporal operator search-attribute remove --name NAME` for each, then `prebuilds init`"
SEE_ISOLATION = "set PREBUILDS_PROCESS_UIDS to user ids that this host has, or to none to run without isolation"
FREE_SPACE = "free some space there; `prebuilds workspaces prune --failed` deletes failed prebuilds with their files"
UNPAUSE = "see who paused it with `temporal workflow describe -w ID`; `temporal activity unpause -w ID --activity-id 1`"
CORRECT_CLOCKS = "let a time service such as chrony set the clocks of this machine, the database and Temporal"
SEE_WHY_NO_PASS = (
    "see what fails in the log of `prebuilds worker --role control`, and what the loop waits for with "
    f"`temporal workflow describe -w {ORCHESTRATOR_ID}`"
)
RESUME_PRESET = (
    "find the cause with `prebuilds explain preset {0}`, correct it, then run `prebuilds presets resume {0}`"
)
MAKE_ROOM = (
    "raise `limits.pool_members` of the organization, or set `rollout.max_unavailable` of the template to 1 or more"
)
SEE_DRILLS = (
    "see why with `prebuilds drills list` and `prebuilds drills show ID`, mend the template, "
    "then try it with `prebuilds drills run`"
)
CONFIRM_RESTORE = "see what may be wrong with `prebuilds restored --dry-run`, then run `prebuilds restored`"
CONFIRM_TOKENS = (
    "see them with `prebuilds tokens list`, and run `prebuilds tokens confirm NAME` for each that is still trusted"
)
REPAIR_WEBHOOK = (
    "make the service at PREBUILDS_WEBHOOK_URL answer with 2xx; notifications that were given up are in the events"
)
SET_STATE_KEY = "set PREBUILDS_STATE_KEY to the key that the deployment's workers have"
TURN_FAIRNESS_ON = "set matching.enableFairness to true in the dynamic config of the Temporal server, 1.29 or later"


def make_current(idle: Mapping[str, Collection[tuple[str, str] | None]]) -> str:
    """Return what to do so that idle workers get tasks.

    Args:
        idle: Queue -> the versions (deployment and build id) of its workers; None stands for workers without a version.
    """
    versions = sorted({version for of_queue in idle.values() for version in of_queue if version is not None})
    commands = [
        f"`temporal worker deployment set-current-version --deployment-name {name} --build-id {build_id}`"
        for name, build_id in versions
    ]
    if not commands:
        commands = ["`temporal worker deployment set-current-version --deployment-name NAME --unversioned`"]
    return f"start a worker of the current version, or make the one that polls current: {', or '.join(commands)}"
