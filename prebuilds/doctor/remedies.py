"""What the checks of `prebuilds doctor` say to do, each in the words of who types it."""

from __future__ import annotations

from prebuilds.vocabulary import ORCHESTRATOR_ID

START_DATABASE = "start `prebuilds dev`, or set PREBUILDS_DATABASE_URL to a running PostgreSQL 14 or later"
MIGRATE = "run `prebuilds migrate` as a database user that owns the schema"
REGISTER_ATTRIBUTES = "run `prebuilds init`, or have the cluster's operator add them with type Keyword"
REPLACE_ATTRIBUTES = "run `temporal operator search-attribute remove --name NAME` for each, then `prebuilds init`"
SEE_ISOLATION = "set PREBUILDS_PROCESS_UIDS to ids that this host has, or to none to do without"
FREE_SPACE = "free some space there; `prebuilds workspaces prune --failed` removes what failed, with its files"
CORRECT_CLOCKS = "have a time service such as chrony set the clocks of this machine, the database's and Temporal's"
SEE_WHY_NO_PASS = (
    "see what fails in the log of `prebuilds worker --role control`, and what the loop waits for with "
    f"`temporal workflow describe -w {ORCHESTRATOR_ID}`"
)
RESUME_PRESET = "mend its cause, which `prebuilds explain preset {0}` tells, then run `prebuilds presets resume {0}`"
SAY_RESTORED = "see what may be wrong with `prebuilds restored --dry-run`, then run `prebuilds restored`"
MEND_WEBHOOK = "have what PREBUILDS_WEBHOOK_URL names answer 2xx; what was given up is in the events"
SET_STATE_KEY = "set PREBUILDS_STATE_KEY as the deployment's workers have it"
TURN_FAIRNESS_ON = "set matching.enableFairness to true in the dynamic config of the Temporal server, 1.29 or later"
