"""Views: the rows and documents that operators and services read, as `--json` prints them."""

from prebuilds.views.drills import DrillPage, DrillRow, DrillState
from prebuilds.views.events import EventRecord, EventRow
from prebuilds.views.explain import ClaimExplanation, PresetExplanation, QueuedClaim, WaitingPage
from prebuilds.views.installation import Binding, Initialized, Migrated, MigrationPlan, MigrationStep
from prebuilds.views.inventory import DoubtfulPrebuild, InventoryReport, InventoryRow, RestoredReport, Unavailable
from prebuilds.views.jobs import BuildLog, CancelResult, JobFilter, JobPage, JobRow, LoggedBuild, LoggedBuilds, LogLine
from prebuilds.views.keys import KeysReport, KeysRotated, KeyUse
from prebuilds.views.limits import LimitPage, LimitRow
from prebuilds.views.loop import LoopChange, Reconciled
from prebuilds.views.paging import Page
from prebuilds.views.people import (
    Leaver,
    LeaverWorkspace,
    LeavingResult,
    MemberPage,
    MemberRow,
    MembersResult,
    UserPage,
    UserRow,
)
from prebuilds.views.presets import InvalidateResult, LiftResult, LintReport, PresetInfo, PresetPage, WindowRow
from prebuilds.views.replays import Difference, Replayed, ReplayReport
from prebuilds.views.sizes import SizeLine, SizePart, SizeReport, SizeWanted
from prebuilds.views.status import LastError, LoopStatus, PresetRow, StatusPage, SystemStatus, status_page
from prebuilds.views.templates import TemplateChange, TemplatePage, TemplateRow
from prebuilds.views.tokens import TokenCreated, TokenPage, TokenRevoked, TokenRow, TokensConfirmed
from prebuilds.views.workspaces import (
    AbandonResult,
    KeepResult,
    LeaseRenewal,
    PruneResult,
    TransferResult,
    WorkspaceChange,
    WorkspaceDetails,
    WorkspacePage,
    WorkspaceRow,
    WorkspaceSettings,
)

__all__ = [
    "AbandonResult",
    "Binding",
    "BuildLog",
    "CancelResult",
    "ClaimExplanation",
    "Difference",
    "DoubtfulPrebuild",
    "DrillPage",
    "DrillRow",
    "DrillState",
    "EventRecord",
    "EventRow",
    "Initialized",
    "InvalidateResult",
    "InventoryReport",
    "InventoryRow",
    "JobFilter",
    "JobPage",
    "JobRow",
    "KeepResult",
    "KeyUse",
    "KeysReport",
    "KeysRotated",
    "LastError",
    "LeaseRenewal",
    "Leaver",
    "LeaverWorkspace",
    "LeavingResult",
    "LiftResult",
    "LimitPage",
    "LimitRow",
    "LintReport",
    "LogLine",
    "LoggedBuild",
    "LoggedBuilds",
    "LoopChange",
    "LoopStatus",
    "MemberPage",
    "MemberRow",
    "MembersResult",
    "Migrated",
    "MigrationPlan",
    "MigrationStep",
    "Page",
    "PresetExplanation",
    "PresetInfo",
    "PresetPage",
    "PresetRow",
    "PruneResult",
    "QueuedClaim",
    "Reconciled",
    "ReplayReport",
    "Replayed",
    "RestoredReport",
    "SizeLine",
    "SizePart",
    "SizeReport",
    "SizeWanted",
    "StatusPage",
    "SystemStatus",
    "TemplateChange",
    "TemplatePage",
    "TemplateRow",
    "TokenCreated",
    "TokenPage",
    "TokenRevoked",
    "TokenRow",
    "TokensConfirmed",
    "TransferResult",
    "Unavailable",
    "UserPage",
    "UserRow",
    "WaitingPage",
    "WindowRow",
    "WorkspaceChange",
    "WorkspaceDetails",
    "WorkspacePage",
    "WorkspaceRow",
    "WorkspaceSettings",
    "status_page",
]
