"""A history as a list of words: the workflow's steps and the events around them, in order."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.enums.v1 import TimeoutType
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory


def steps_of(history: WorkflowHistory) -> list[str]:
    """Return words for the events of *history* that distinguish branches.

    An activity, local or not, is its name; `failed:`, `timed-out:`, `completed:` and `started:` carry the kind.
    Workflow tasks are left out, but for `task-lost`: the worker that had one has died.
    """
    return [word for event in history.events if (word := _word(event)) is not None]


def shows(steps: Sequence[str], pattern: str) -> bool:
    """Tell whether *steps* have the words of *pattern*, in this order, with anything between them.

    A word may have wildcards. `!word` means that no step is like it, anywhere.
    """
    words = pattern.split()
    unwanted = [word.removeprefix("!") for word in words if word.startswith("!")]
    if any(fnmatchcase(step, word) for step in steps for word in unwanted):
        return False
    left = iter(steps)
    return all(any(fnmatchcase(step, word) for step in left) for word in words if not word.startswith("!"))


def _word(event: HistoryEvent) -> str | None:
    attribute = event.WhichOneof("attributes")
    if attribute is None:
        return None
    word = _WORDS.get(attribute.removesuffix("_event_attributes"))
    return word(getattr(event, attribute)) if callable(word) else word


def _marker(attributes: Any) -> str | None:
    if attributes.marker_name != "core_local_activity":
        return None
    name: str = _json(attributes.details["data"])["activity_type"]
    return f"{name}:failed" if attributes.HasField("failure") else name


def _json(given: Payload | Payloads) -> Any:
    """Return the first value, or None without one in JSON."""
    payloads = given.payloads if isinstance(given, Payloads) else [given]
    if not payloads or not payloads[0].metadata["encoding"].startswith(b"json/"):
        return None
    return json.loads(payloads[0].data)


def _started(attributes: Any) -> str:
    given = _json(attributes.input)
    carried = given.get("carried") if isinstance(given, dict) else None
    return f"started:carried{':wanted' if carried['wanted_presets'] else ''}" if carried else "started"


def _completed(attributes: Any) -> str:
    result = _json(attributes.result)
    how = (result.get("status") or result.get("source")) if isinstance(result, dict) else None
    return f"completed:{how}" if isinstance(how, str) else "completed"


def _failure_type(failure: Failure) -> str:
    return failure.application_failure_info.type or (_failure_type(failure.cause) if failure.HasField("cause") else "")


_WORDS: dict[str, str | Callable[[Any], str | None]] = {
    "workflow_execution_started": _started,
    "workflow_execution_completed": _completed,
    "workflow_execution_failed": lambda a: f"failed:{_failure_type(a.failure)}",
    "workflow_execution_canceled": "canceled",
    "workflow_execution_continued_as_new": "continued",
    "workflow_execution_cancel_requested": "cancel-requested",
    "workflow_execution_signaled": lambda a: f"signal:{a.signal_name}",
    "workflow_execution_update_accepted": lambda a: f"update:{a.accepted_request.input.name}",
    "workflow_execution_update_completed": "answered",
    "workflow_task_timed_out": "task-lost",
    "marker_recorded": _marker,
    "activity_task_scheduled": lambda a: a.activity_type.name,
    "activity_task_started": lambda a: "again" if a.attempt > 1 else None,
    "activity_task_failed": lambda a: f"step-failed:{_failure_type(a.failure)}",
    "activity_task_timed_out": lambda a: f"timed-out:{_timeout(a.failure)}",
    "activity_task_cancel_requested": "step-cancel-requested",
    "activity_task_canceled": "step-canceled",
    "timer_started": "timer",
    "timer_fired": "fired",
    "timer_canceled": "timer-canceled",
    "start_child_workflow_execution_initiated": "child",
    "start_child_workflow_execution_failed": "child-refused",
    "child_workflow_execution_completed": "child-completed",
    "child_workflow_execution_failed": "child-failed",
    "child_workflow_execution_timed_out": "child-timed-out",
}


def _timeout(failure: Failure) -> str:
    return TimeoutType.Name(failure.timeout_failure_info.timeout_type).removeprefix("TIMEOUT_TYPE_")
