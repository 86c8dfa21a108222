"""`prebuilds doctor`: whether everything that Prebuilds stands on is there, and what to type where it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from uuid import UUID

from prebuilds.api import StackUnreachable
from prebuilds.doctor.examination import STEPS, Examination, NotWell, Step
from prebuilds.failures import as_typed
from prebuilds.payloads import Payload
from prebuilds.settings import Settings

T = TypeVar("T")

CLOSE_TIMEOUT_S = 1.0


class Check(Payload):
    name: str
    ok: bool
    remedy: str | None = None
    """What to type, in a person's words; null when ok."""
    detail: str | None = None
    """What was found."""


class DoctorReport(Payload):
    ok: bool
    deployment_id: UUID | None = None
    """Who this deployment is; null when its database does not tell."""
    checks: list[Check]


async def examine(settings: Settings | None = None) -> DoctorReport:
    """Make every check, side by side; takes about ten seconds at most, and whatever goes wrong is in the report.

    A check that needs an earlier one which failed is not made: it is not ok either, with the earlier one's remedy.

    Args:
        settings: None reads the environment, and reports it when it cannot be read.
    """
    examination = Examination(settings)
    made: dict[str, asyncio.Task[Check]] = {}
    for step in STEPS:  # none begins before all are there
        made[step.name] = asyncio.create_task(_make(step, examination, made))
    checks = [await task for task in made.values()]
    if examination.engine is not None:
        with suppress(TimeoutError):
            await _in_time(examination.engine.dispose(), CLOSE_TIMEOUT_S)
    ok = all(check.ok for check in checks)
    return DoctorReport(ok=ok, deployment_id=examination.deployment_id, checks=checks)


async def _make(step: Step, examination: Examination, made: dict[str, asyncio.Task[Check]]) -> Check:
    for name in step.needs:
        earlier = await made[name]
        if not earlier.ok:
            return Check(name=step.name, ok=False, remedy=earlier.remedy, detail=f"not checked: it needs {name}")
    for name in step.after:
        await made[name]
    try:
        return Check(name=step.name, ok=True, detail=await _in_time(step.check(examination), step.timeout_s))
    except Exception as error:  # whatever it is, it is what this command is asked to tell
        detail, remedy = _finding(error, step, examination.asked.get(step.name))
        return Check(name=step.name, ok=False, remedy=remedy, detail=detail)


async def _in_time(work: Coroutine[Any, Any, T], timeout_s: float) -> T:
    """The result of *work*. Late work is left behind, since a driver may wait for ever to part from a dead peer.

    Raises:
        TimeoutError: There is no result in time.
    """
    task = asyncio.create_task(work)
    done, _ = await asyncio.wait({task}, timeout=timeout_s)
    if not done:
        task.add_done_callback(_forget)
        task.cancel()
        raise TimeoutError
    return task.result()


def _forget(late: asyncio.Task[Any]) -> None:
    """Take what late work ends with, else asyncio prints it as an exception that nobody has retrieved."""
    if not late.cancelled():
        late.exception()


def _finding(error: Exception, step: Step, asked: str | None) -> tuple[str, str]:
    """What was found wrong, and what to do."""
    match error:
        case NotWell():
            return error.detail, error.remedy
        case TimeoutError():
            return "no answer in time" + (f" from {asked}" if asked else ""), step.remedy
    found = as_typed(error)
    if found is None:
        return f"{type(error).__name__}: {error}", step.remedy
    unreached = isinstance(found, StackUnreachable) and found.advice is None  # which says to ask the doctor
    return found.message, step.remedy if unreached else found.remedy
