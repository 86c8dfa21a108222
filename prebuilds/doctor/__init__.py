"""`prebuilds doctor`: checks everything that Prebuilds depends on, and says what to do where a check fails."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from uuid import UUID

from prebuilds.api import StackUnreachable
from prebuilds.doctor.examination import Examination
from prebuilds.doctor.findings import CheckFailed
from prebuilds.doctor.steps import STEPS, Step
from prebuilds.failures import as_typed
from prebuilds.payloads import Payload
from prebuilds.settings import Settings

T = TypeVar("T")

TRIALS = frozenset({"fairness"})
"""Checks that try something out, and start workflows for it."""
CLOSE_TIMEOUT_S = 1.0
"""Limit of closing the database connections at the end."""


class Check(Payload):
    """The result of one check."""

    name: str
    ok: bool
    remedy: str | None = None
    """What to do about it, as a sentence for a person; null when ok."""
    detail: str | None = None
    """What the check found."""


class DoctorReport(Payload):
    """The results of all checks; `ok` when every check is."""

    ok: bool
    deployment_id: UUID | None = None
    """The deployment's id; null when it cannot be read from the database."""
    checks: list[Check]


async def examine(settings: Settings | None = None, *, trials: bool = True) -> DoctorReport:
    """Run every check concurrently. Takes about ten seconds at most; all failures are in the report.

    A check that depends on a failed one is not run. It is reported as not ok, with the failed check's remedy.

    Args:
        settings: The settings to check with; None reads the environment, and a setting that cannot be read is a
            finding of the report.
        trials: Also run the checks in `TRIALS`; False leaves them out, for who examines again and again.
    """
    examination = Examination(settings)
    tasks: dict[str, asyncio.Task[Check]] = {}
    steps = [step for step in STEPS if trials or step.name not in TRIALS]
    for step in steps:  # a task first runs at the await below, when all of them are in `tasks`
        tasks[step.name] = asyncio.create_task(_run_step(step, examination, tasks))
    checks = [await task for task in tasks.values()]
    if examination.engine is not None:
        with suppress(TimeoutError):
            await _run_within(examination.engine.dispose(), CLOSE_TIMEOUT_S)
    ok = all(check.ok for check in checks)
    return DoctorReport(ok=ok, deployment_id=examination.deployment_id, checks=checks)


async def _run_step(step: Step, examination: Examination, tasks: dict[str, asyncio.Task[Check]]) -> Check:
    for name in step.needs:
        needed = await tasks[name]
        if not needed.ok:
            return Check(name=step.name, ok=False, remedy=needed.remedy, detail=f"not checked: it needs {name}")
    for name in step.after:
        if name in tasks:
            await tasks[name]
    try:
        return Check(name=step.name, ok=True, detail=await _run_within(step.check(examination), step.timeout_s))
    except Exception as error:  # any error is a finding: reporting it is this command's purpose
        detail, remedy = _describe_failure(error, step, examination.addresses.get(step.name))
        return Check(name=step.name, ok=False, remedy=remedy, detail=detail)


async def _run_within(work: Coroutine[Any, Any, T], timeout_s: float) -> T:
    """Run *work* and return its result. Work that is late is cancelled but not awaited, since a driver may wait for
    ever when it closes a connection to a dead peer.

    Raises:
        TimeoutError: *work* has not ended after *timeout_s*.
    """
    task = asyncio.create_task(work)
    done, _ = await asyncio.wait({task}, timeout=timeout_s)
    if not done:
        task.add_done_callback(_retrieve_exception)
        task.cancel()
        raise TimeoutError
    return task.result()


def _retrieve_exception(late: asyncio.Task[Any]) -> None:
    """Retrieve the exception of a late task; asyncio prints a warning about one that is never retrieved."""
    if not late.cancelled():
        late.exception()


def _describe_failure(error: Exception, step: Step, address: str | None) -> tuple[str, str]:
    """Return what is wrong and what to do about it."""
    match error:
        case CheckFailed():
            return error.detail, error.remedy
        case TimeoutError():
            return "no answer in time" + (f" from {address}" if address else ""), step.remedy
    typed = as_typed(error)
    if typed is None:
        return f"{type(error).__name__}: {error}", step.remedy
    # The default remedy of StackUnreachable is to run this command, so the step's own remedy is better.
    has_no_advice = isinstance(typed, StackUnreachable) and typed.advice is None
    return typed.message, step.remedy if has_no_advice else typed.remedy
