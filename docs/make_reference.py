"""Makes `reference.md` from the code: `make reference`. A test fails when that file is not what this makes."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import NamedTuple, get_args

from pydantic import BaseModel
from reference_tables import field, fields
from temporalio.workflow import _Definition

from prebuilds.api import ERRORS
from prebuilds.payloads import (
    ClaimRequest,
    ClaimResult,
    ClaimsRequest,
    ClaimsResult,
    ClaimStatus,
    DrillInput,
    DrillResult,
    InventoryInput,
    LintInput,
    OperatorRequest,
    OrchestratorInput,
    OrchestratorResult,
    OrchestratorStatus,
    ReconcilePresetInput,
    ReconcilePresetResult,
    ReleasedClaims,
    ReleaseResult,
    Replacement,
    StopAnswer,
    WorkspaceBuildInput,
    WorkspaceBuildResult,
)
from prebuilds.templates.canary_entry import CanaryEntry
from prebuilds.templates.drill_entry import DrillEntry, DrillHttp
from prebuilds.templates.entries import OrganizationEntry, TemplateEntry
from prebuilds.templates.file import TemplateFile
from prebuilds.templates.preset_entry import PresetEntry, WindowEntry
from prebuilds.temporal.search_attributes import KEYWORDS
from prebuilds.views import (
    AbandonResult,
    EventRow,
    InventoryReport,
    InventoryRow,
    JobRow,
    LastError,
    LeaseRenewal,
    Leaver,
    LeaverWorkspace,
    LeavingResult,
    LintReport,
    LoopChange,
    LoopStatus,
    MembersResult,
    PresetRow,
    StatusPage,
    TransferResult,
    Unavailable,
    WorkspaceChange,
    WorkspaceDetails,
    WorkspacePage,
    WorkspaceRow,
    WorkspaceSettings,
)
from prebuilds.vocabulary import CLAIMS_QUEUE, CONTROL_QUEUE, INVENTORY_ID, ORCHESTRATOR_ID
from workflows.claim_workspace import ClaimWorkspace
from workflows.claim_workspaces import ClaimWorkspaces
from workflows.drill_template import DrillTemplate
from workflows.lint_preset import LintPreset
from workflows.operator_request import OperatorRequest as OperatorWorkflow
from workflows.orchestrator import PrebuildsOrchestrator
from workflows.reconcile_inventory import ReconcileInventory
from workflows.reconcile_preset import ReconcilePreset
from workflows.workspace_build import WorkspaceBuild

REFERENCE = Path(__file__).with_name("reference.md")

HEAD = """\
# Reference

`make reference` makes this page from the code. How to use it from TypeScript, Go and a shell is in
[other-languages](other-languages.md); what the words mean is in the [glossary](glossary.md).

JSON has snake_case keys. Ids are UUIDs as text, but a claim id is free text of at most 200 bytes. Times are RFC 3339 in UTC.
Durations are seconds in JSON (`*_seconds`) and `90s`, `15m`, `8h` or `2d` in template files. An optional field may be left
out or null. Unknown fields are refused by name.
"""


class Offered(NamedTuple):
    """A workflow type, as somebody who starts or watches it sees it."""

    cls: type
    id: str
    queue: str
    started_by: str
    input: type[BaseModel]
    result: type[BaseModel] | str


WORKFLOWS = (
    Offered(ClaimWorkspace, "claim-workspace/{claim_id}", CLAIMS_QUEUE, "services, people", ClaimRequest, ClaimResult),
    Offered(ClaimWorkspaces, "claim-workspaces/{claim_id}", CLAIMS_QUEUE, "services", ClaimsRequest, ClaimsResult),
    Offered(
        WorkspaceBuild,
        "workspace-build/{build_id}",
        CONTROL_QUEUE,
        "who records a build, the relay, who waits for a build",
        WorkspaceBuildInput,
        WorkspaceBuildResult,
    ),
    Offered(
        OperatorWorkflow,
        "operator-request/{any id}",
        CONTROL_QUEUE,
        "services, people",
        OperatorRequest,
        "by its action, see OperatorRequest",
    ),
    Offered(
        PrebuildsOrchestrator,
        ORCHESTRATOR_ID,
        CONTROL_QUEUE,
        "`prebuilds start`, control workers",
        OrchestratorInput,
        OrchestratorResult,
    ),
    Offered(
        ReconcilePreset,
        "reconcile-preset/{preset_id}",
        CONTROL_QUEUE,
        "the orchestrator",
        ReconcilePresetInput,
        ReconcilePresetResult,
    ),
    Offered(
        ReconcileInventory,
        INVENTORY_ID,
        CONTROL_QUEUE,
        "the relay, `prebuilds inventory`",
        InventoryInput,
        InventoryReport,
    ),
    Offered(
        DrillTemplate,
        "drill-template/{drill_id}",
        CONTROL_QUEUE,
        "control workers, `prebuilds drills run`",
        DrillInput,
        DrillResult,
    ),
    Offered(LintPreset, "lint-preset/{preset}", CONTROL_QUEUE, "`prebuilds presets lint`", LintInput, LintReport),
)

ACTIONS: dict[str, tuple[str, str]] = {
    "status": ("`after`, `limit`", "StatusPage"),
    "list_workspaces": ("`owner`, `preset`, `after`, `limit`", "WorkspacePage"),
    "show_workspace": ("**`workspace`**", "WorkspaceDetails"),
    "start": (
        "`interval_seconds`, `by`",
        "LoopChange, and `started`: as its `changed`, false when it was running already",
    ),
    "stop": ("`reason`, `by`", "LoopChange, and `stopping`: as its `changed`, false when it was not running"),
    "pause": ("**`reason`**, `by`", "LoopChange"),
    "resume": ("`by`", "LoopChange"),
    "release": ("**`workspace`**, `by`", "ReleaseResult"),
    "abandon": ("**`workspace`**, `by`", "AbandonResult"),
    "release_claims": ("**`claim_ids`**, `by`", "ReleasedClaims"),
    "start_workspace": ("**`workspace`**, `by`", "WorkspaceChange"),
    "stop_workspace": ("**`workspace`**, `by`", "WorkspaceChange"),
    "retry": ("**`workspace`**, `by`", "WorkspaceChange"),
    "set": ("**`workspace`**, `ttl_seconds`, `autostart_schedule`, `lease_seconds`, `by`", "WorkspaceSettings"),
    "renew": ("**`workspace`**, `lease_seconds`, `by`", "LeaseRenewal"),
    "transfer": ("**`workspace`**, **`to`**, `name`, `by`", "TransferResult"),
    "add_members": ("**`organization`**, **`users`**, `by`", "MembersResult"),
    "remove_members": ("**`organization`**, **`users`**, `by`", "LeavingResult"),
    "disable_users": ("**`users`**, `by`", "LeavingResult"),
    "enable_users": ("**`users`**, `by`", "LeavingResult"),
    "run_drill": ("**`target`**, `by`", "DrillRow"),
    "list_drills": ("`template`, `after`, `limit`", "DrillPage"),
    "show_drill": ("**`drill`**", "DrillRow"),
}
"""Each action's fields, the required ones in bold, and what it answers."""

RECORDS: tuple[type[BaseModel], ...] = (
    StatusPage,
    LoopStatus,
    LoopChange,
    PresetRow,
    LastError,
    WorkspacePage,
    WorkspaceRow,
    WorkspaceDetails,
    JobRow,
    EventRow,
    ReleaseResult,
    AbandonResult,
    ReleasedClaims,
    WorkspaceChange,
    WorkspaceSettings,
    LeaseRenewal,
    TransferResult,
    MembersResult,
    LeavingResult,
    Leaver,
    LeaverWorkspace,
    Replacement,
    DrillResult,
    LintReport,
    InventoryReport,
    InventoryRow,
    Unavailable,
    OrchestratorStatus,
    StopAnswer,
    OrchestratorResult,
    ReconcilePresetResult,
)


def reference() -> str:
    """The whole page."""
    parts = [HEAD, *_claims(), *_template_file(), *_errors(), *_workflows(), *_operator_request(), *_records()]
    return "\n".join(parts)


def _claims() -> list[str]:
    return [
        "## A claim\n",
        "The input of `ClaimWorkspace`, with exactly one of `preset` and `template`. Its JSON Schema: `prebuilds schema claim`.\n",
        fields(ClaimRequest),
        f"`ClaimWorkspaces` takes the same with `names` in place of `name`: {field(ClaimsRequest, 'names')}\n",
        "The result of `ClaimWorkspace`:\n",
        fields(ClaimResult, result=True),
        f"The result of `ClaimWorkspaces` has `claim_id` and `claims`, a list of these. {field(ClaimsResult, 'claims')}\n",
        "The query `status` of a `ClaimWorkspace` answers:\n",
        fields(ClaimStatus, result=True),
    ]


def _template_file() -> list[str]:
    parts = [
        "## A template file\n",
        "What `prebuilds apply -f FILE` reads, as YAML. Its JSON Schema: `prebuilds schema templates`. An entry is the whole "
        "of it: an optional field left out has its default, also when the entry was applied with another value before. What "
        "has no entry is left as it is. The drivers' own `source` keys are in [operations](operations.md).\n",
        fields(TemplateFile),
    ]
    entries = {
        "An entry of `organizations`": OrganizationEntry,
        "An entry of `templates`": TemplateEntry,
        "`drill` of a template": DrillEntry,
        "`http` of a drill": DrillHttp,
        "`canary` of a template": CanaryEntry,
        "An entry of `presets`": PresetEntry,
        "An entry of `schedule`": WindowEntry,
    }
    for heading, entry in entries.items():
        parts += [f"### {heading}\n", fields(entry)]
    return parts


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _errors() -> list[str]:
    rows = [
        f"| `{name}` | {'yes' if cls.retryable else 'no'} | {_first_line(cls)} | {_sentence(cls.default_remedy)} |"
        for name, cls in ERRORS.items()
    ]
    return [
        "## Errors\n",
        "A workflow that refuses or fails ends with an application error whose `type` is one of these. Its message says "
        "what happened and what to do. Its first detail is an object of facts; its second one is `{message, remedy}`, the "
        "two parts by themselves, where `inputs` may name fields of the request and values that help. With `--json` the "
        "command prints `{error: {type, message, details, remedy}}`. Temporal retries none of them. *Retryable* means that "
        "the same request may succeed later without anybody changing it; keep its id.\n",
        "The remedy here is the usual one; an error that knows better says so.\n",
        "| type | retryable | meaning | remedy |\n| --- | --- | --- | --- |",
        *rows,
        "",
    ]


def _workflows() -> list[str]:
    rows = []
    handlers = []
    for offered in WORKFLOWS:
        definition = _Definition.must_from_class(offered.cls)
        result = offered.result if isinstance(offered.result, str) else offered.result.__name__
        rows.append(
            f"| `{definition.name}` | `{offered.id}` | `{offered.queue}` | {offered.started_by} | "
            f"{offered.input.__name__} | {result} |"
        )
        for kind, found in (
            ("signal", definition.signals),
            ("query", definition.queries),
            ("update", definition.updates),
        ):
            handlers += [
                f"| `{definition.name}` | {kind} | `{name}` | {one.description or ''} |"
                for name, one in found.items()
                if name is not None
            ]
    return [
        "## Workflows\n",
        "| type | workflow id | task queue | started by | input | result |\n| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        "Start `ClaimWorkspace`, `ClaimWorkspaces`, `WorkspaceBuild` and `PrebuildsOrchestrator` with the conflict policy "
        "`USE_EXISTING`: a second start joins the first one. A `ClaimWorkspace` may have any other workflow id; that is its "
        "claim id then.\n",
        "| workflow | kind | name | what it does |\n| --- | --- | --- | --- |",
        *handlers,
        "",
        "`PrebuildsOrchestrator` shows a signal with another name in its `status`, under `ignored`. The input of a "
        "`WorkspaceBuild`:\n",
        fields(WorkspaceBuildInput),
        "Its result:\n",
        fields(WorkspaceBuildResult, result=True),
        f"Search attributes, all keywords, set where our client starts a workflow: {', '.join(f'`{k}`' for k in KEYWORDS)}.\n",
    ]


def _operator_request() -> list[str]:
    rows = [f"| `{action}` | {needs} | {answer} |" for action, (needs, answer) in ACTIONS.items()]
    return [
        "## OperatorRequest\n",
        "One workflow for whatever a service or an operator asks of the deployment. Required fields are bold.\n",
        "| action | fields | result |\n| --- | --- | --- |",
        *rows,
        "",
        fields(OperatorRequest),
    ]


def _records() -> list[str]:
    parts = ["## Records\n"]
    for model in RECORDS:
        text = inspect.cleandoc(model.__doc__ or "") if model.__doc__ is not BaseModel.__doc__ else ""
        own = "" if text.startswith("!!!") else text
        parts += [f"### {model.__name__}\n", *([f"{own}\n"] if own else []), fields(model, result=True)]
    return parts


def _first_line(cls: type) -> str:
    text = inspect.cleandoc(cls.__doc__ or "")
    return " ".join(text.split("\n\n")[0].split())


def actions() -> set[str]:
    """Every action that an `OperatorRequest` may name."""
    return set(get_args(OperatorRequest.model_fields["action"].annotation))


def main() -> None:
    """Write the page; with `--check`, only say by the exit code whether it is current."""
    made = reference()
    if "--check" in sys.argv:
        sys.exit(REFERENCE.read_text() != made)
    REFERENCE.write_text(made)


if __name__ == "__main__":
    main()
