"""Payloads: what crosses a workflow's or an activity's border, as JSON.

Inputs come from other languages and from operators' keyboards. A typed parameter of a workflow's `run` would park the
workflow on a mistyped input. Public `run` methods therefore take `Any` and call `parse_input`, which raises a typed
`InvalidInput` instead.
"""

from prebuilds.payloads.base import ONLY_LEASED, ONLY_PAUSED, ONLY_STANDBY, Payload, build_validators, parse_input
from prebuilds.payloads.builds import DrillInput, DrillResult, Replacement, WorkspaceBuildInput, WorkspaceBuildResult
from prebuilds.payloads.claim_ids import CLAIM_ID_BYTES_MAX, CLAIMS_MAX, ClaimId, parse_claim_id
from prebuilds.payloads.claims import (
    ClaimPlace,
    ClaimQueued,
    ClaimRequest,
    ClaimResult,
    ClaimRun,
    ClaimsRequest,
    ClaimsResult,
    ClaimStatus,
    ClaimTerms,
    waits_not,
)
from prebuilds.payloads.inspections import InventoryInput, LintInput
from prebuilds.payloads.loop import (
    OrchestratorCarried,
    OrchestratorInput,
    OrchestratorResult,
    OrchestratorStatus,
    ReconcilePresetInput,
    ReconcilePresetResult,
    SeenEvent,
    StopAnswer,
)
from prebuilds.payloads.messages import PLAIN_MESSAGES, field_messages, plain_message
from prebuilds.payloads.paths import parse_path, parse_workspace_path
from prebuilds.payloads.requests import (
    DeploymentAction,
    DrillAction,
    OperatorRequest,
    PeopleAction,
    ReleasedClaims,
    ReleaseResult,
    RequestRun,
    WorkspaceAction,
    WorkspaceRead,
)

__all__ = [
    "CLAIMS_MAX",
    "CLAIM_ID_BYTES_MAX",
    "ONLY_LEASED",
    "ONLY_PAUSED",
    "ONLY_STANDBY",
    "PLAIN_MESSAGES",
    "ClaimId",
    "ClaimPlace",
    "ClaimQueued",
    "ClaimRequest",
    "ClaimResult",
    "ClaimRun",
    "ClaimStatus",
    "ClaimTerms",
    "ClaimsRequest",
    "ClaimsResult",
    "DeploymentAction",
    "DrillAction",
    "DrillInput",
    "DrillResult",
    "InventoryInput",
    "LintInput",
    "OperatorRequest",
    "OrchestratorCarried",
    "OrchestratorInput",
    "OrchestratorResult",
    "OrchestratorStatus",
    "Payload",
    "PeopleAction",
    "ReconcilePresetInput",
    "ReconcilePresetResult",
    "ReleaseResult",
    "ReleasedClaims",
    "Replacement",
    "RequestRun",
    "SeenEvent",
    "StopAnswer",
    "WorkspaceAction",
    "WorkspaceBuildInput",
    "WorkspaceBuildResult",
    "WorkspaceRead",
    "build_validators",
    "field_messages",
    "parse_claim_id",
    "parse_input",
    "parse_path",
    "parse_workspace_path",
    "plain_message",
    "waits_not",
]
