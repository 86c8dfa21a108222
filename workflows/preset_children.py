"""The children of the loop: which presets wait to be reconciled, and which `ReconcilePreset` children run.

A preset never has more than one child at a time, and only a bounded number of children run. The loop decides when a
preset is wanted and when children begin; this module keeps the lists and starts the children.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError
from temporalio.workflow import ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from opentelemetry import trace

    from activities.reconcile import Work
    from prebuilds.vocabulary import reconcile_preset_id
    from workflows.pass_traces import below
    from workflows.refusal import cause_of

WANTED_MAX = 1000
"""Presets that may wait by id. Beyond that the loop runs a full pass, which finds them again; so no payload grows with
the deployment."""
CHILD_TIMEOUT = timedelta(seconds=60)
TASK_TIMEOUT = timedelta(seconds=2)
BUSY_PAUSE = timedelta(seconds=1)
"""The pause before the next try at a preset whose child from an earlier run of the loop is still running."""


class PresetChildren:
    """The presets that wait and the children that run, in one run of the loop."""

    def __init__(self, wanted: Sequence[str], pending_max: int | None, *, max_parallel: int) -> None:
        """Make the children of one run of the loop.

        Args:
            wanted: Ids of presets that the run before has left waiting.
            pending_max: The share of the capacity that the run before has found; None for no limit.
            max_parallel: The most children at a time.
        """
        self.wanted: dict[str, trace.Span] = dict.fromkeys(wanted, trace.INVALID_SPAN)
        """The ids that wait, in the order of the requests, each with the span that has asked first."""
        self.reconciling: dict[str, asyncio.Task[None]] = {}
        """The running children by preset id."""
        self.pending_max = pending_max
        """How many creations each preset may have pending, from the last pass; None for no limit."""
        self.closed = False
        """Whether this run of the loop begins no more children."""
        self._max_parallel = max_parallel
        self._favored: set[str] = set()
        self._paths: dict[str, str] = {}  # paths of presets that passes have found, for the UI

    @property
    def any_left(self) -> bool:
        """Whether a preset waits or is reconciled."""
        return bool(self.wanted or self.reconciling)

    def want(self, presets: Iterable[str]) -> None:
        """Have presets reconciled. One that waits already keeps its place."""
        cause = trace.get_current_span()
        for preset in presets:
            self.wanted.setdefault(preset, cause)

    def note_work(self, work: Work) -> list[str]:
        """Take over the paths and the shares of the capacity that a pass has found. Returns the presets with work."""
        found = [str(preset) for preset in work.preset_ids]
        self._paths = dict([*self._paths.items(), *zip(found, work.paths, strict=False)][-WANTED_MAX:])
        self.pending_max, self._favored = work.pending_max, {str(preset) for preset in work.favored}
        return found

    def busy_with(self, presets: Sequence[str]) -> bool:
        """Whether one of *presets* waits or is reconciled."""
        return any(preset in self.wanted or preset in self.reconciling for preset in presets)

    def next_startable(self) -> str | None:
        """The next preset to begin; None for none now. A preset that is being reconciled keeps its place until then."""
        # Children contend for the loop's tasks: 500 children take 10 s at 50 at a time, and 23 s unbounded.
        if self.closed or len(self.reconciling) >= self._max_parallel:
            return None
        return next((preset for preset in self.wanted if preset not in self.reconciling), None)

    def begin_wanted(self) -> None:
        """Begin a child for each preset that waits, as far as the limit allows."""
        while (preset := self.next_startable()) is not None:
            cause = self.wanted.pop(preset)
            self.reconciling[preset] = asyncio.create_task(self._reconcile_preset(preset), context=below(cause))

    def close(self) -> list[str]:
        """Begin no more children. Returns the presets that still waited, for the next run."""
        self.closed = True
        left, self.wanted = list(self.wanted), {}
        return left

    async def _reconcile_preset(self, preset: str) -> None:
        try:
            done = await workflow.execute_child_workflow(
                "ReconcilePreset",
                {"preset_id": preset, "pending_max": self._take_share(preset)},
                id=reconcile_preset_id(preset),
                static_summary=f"Preset {self._paths.get(preset, preset)}: create, delete and cancel as its plan says",
                parent_close_policy=ParentClosePolicy.ABANDON,
                execution_timeout=CHILD_TIMEOUT,
                task_timeout=TASK_TIMEOUT,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            )
            if done.get("more") and not self.closed:
                self.wanted[preset] = trace.get_current_span()
        except WorkflowAlreadyStartedError:
            await workflow.sleep(BUSY_PAUSE)
            self.wanted[preset] = trace.get_current_span()
        except FailureError as error:
            workflow.logger.warning("A preset failed", extra={"preset_id": preset, "error": repr(cause_of(error))})
        finally:
            del self.reconciling[preset]

    def _take_share(self, preset: str) -> int | None:
        """Return the most creations that *preset* may have pending; None for no limit."""
        if self.pending_max is None or preset not in self._favored:
            return self.pending_max
        self._favored.remove(preset)  # its extra creation counts once in a pass
        return self.pending_max + 1
