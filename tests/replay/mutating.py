"""A workflow's file with one text replaced, compiled beside the real one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

MODULES = {
    "PrebuildsOrchestrator": "orchestrator",
    "ReconcilePreset": "reconcile_preset",
    "WorkspaceBuild": "workspace_build",
    "ClaimWorkspace": "claim_workspace",
    "ClaimWorkspaces": "claim_workspaces",
    "OperatorRequest": "operator_request",
    "ReconcileInventory": "reconcile_inventory",
    "LintPreset": "lint_preset",
    "DrillTemplate": "drill_template",
}


@dataclass(frozen=True)
class Mutation:
    kind: str
    """The workflow type."""
    case: str
    """The stored history that goes through the changed branch."""
    change: str
    old: str
    """The one place in the file with this text is replaced by `new`."""
    new: str
    module: str = ""
    """The module of `workflows/` whose file it is; empty for the workflow's own."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.change} ({self.case})"


@contextmanager
def mutated(mutation: Mutation) -> Iterator[type[Any]]:
    """Compile a workflow's file, and the file that the mutation names, with one text replaced; yields the workflow's
    class.

    Raises:
        ValueError: The text is not exactly once in the file; the table is out of date.
    """
    own = MODULES[mutation.kind]
    changed = mutation.module or own
    with ExitStack() as stack:
        if changed != own:  # the workflow's file, compiled next, imports the changed module under its usual name
            stack.enter_context(_compiled(changed, f"workflows.{changed}", mutation))
        module = stack.enter_context(_compiled(own, f"workflows_mutated_{own}", mutation if changed == own else None))
        yield getattr(module, mutation.kind)


@contextmanager
def unchanged(kind: str) -> Iterator[type[Any]]:
    """Compile a workflow's file as it is; yields the workflow's class."""
    with _compiled(MODULES[kind], f"workflows_mutated_{MODULES[kind]}", None) as module:
        yield getattr(module, kind)


@contextmanager
def _compiled(name: str, under: str, mutation: Mutation | None) -> Iterator[ModuleType]:
    """Compile a file of `workflows/`, with a mutation's text replaced if one is given, as a module named *under*."""
    original = importlib.import_module(f"workflows.{name}")
    source = Path(str(original.__file__)).read_text()
    if mutation is not None:
        if source.count(mutation.old) != 1:
            raise ValueError(f"{source.count(mutation.old)} times in {original.__file__}: {mutation.old}")
        source = source.replace(mutation.old, mutation.new)
    module, before = ModuleType(under), sys.modules.get(under)
    sys.modules[under] = module  # where the SDK looks up what the annotations name
    try:
        exec(compile(source, f"<{under}>", "exec"), vars(module))  # noqa: S102 - our own file
        yield module
    finally:
        if before is None:
            del sys.modules[under]
        else:
            sys.modules[under] = before
