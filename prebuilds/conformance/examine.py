"""Every check by name, and running one or all of them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from prebuilds.api import PrebuildsError
from prebuilds.conformance import checking, checks, interrupted, ownership, pausing, returning
from prebuilds.conformance.subject import Skipped, Subject, Violation
from prebuilds.conformance.trial import Trial, error_text

Check = Callable[[Trial], Awaitable[None]]

CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        checks.wrong_source_is_named,
        checks.unknown_is_no_error,
        checks.apply_makes_it_ready,
        checks.twice_makes_one,
        checks.at_once_makes_one,
        checks.lost_replies_do_no_harm,
        checks.plan_is_quiet,
        checks.stop_keeps_it,
        checks.inventory_is_true,
        checks.older_builds_are_refused,
        checks.failed_start_leaves_nothing,
        ownership.inventory_tells_the_mark,
        ownership.another_claim_is_refused,
        ownership.marks_outlive_the_database,
        ownership.another_deployment_is_apart,
        returning.suspended_comes_back,
        pausing.pause_keeps_it,
        pausing.paused_is_claimed,
        pausing.older_pauses_are_refused,
        pausing.killed_while_pausing,
        checking.check_tells_how_it_ended,
        checking.check_ends_in_time,
        interrupted.cancel_is_prompt,
        interrupted.cancelled_half_way,
        interrupted.killed_half_way,
        interrupted.killed_while_claiming,
        interrupted.killed_while_destroying,
    )
}


class Verdict(StrEnum):
    """A check's result. Skipped: the check says nothing about this driver."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class Outcome(BaseModel):
    """One check's result, as reports show it."""

    model_config = ConfigDict(frozen=True)

    check: str
    promise: str
    verdict: Verdict
    reason: str | None = None
    """Why it failed or was skipped; None: it passed."""
    seconds: float


async def examine(
    subject: Subject, state_dir: Path, names: Sequence[str] = (), report: Callable[[Outcome], None] | None = None
) -> list[Outcome]:
    """Run checks one after the other, and return their outcomes.

    Args:
        state_dir: The driver's state folder during the checks.
        names: Names of the checks; empty: all.
        report: Called with each outcome as soon as it is known.
    Raises:
        InvalidInput: There is no source to examine the driver with.
    """
    subject.working_source()
    outcomes = []
    for name in names or CHECKS:
        outcomes.append(await run_check(name, subject, state_dir))
        if report is not None:
            report(outcomes[-1])
    return outcomes


async def run_check(name: str, subject: Subject, state_dir: Path) -> Outcome:
    """Run one check. Any error that the driver raises is the check's failure."""
    check, begun = CHECKS[name], time.monotonic()
    verdict, reason = Verdict.PASSED, None
    try:
        async with Trial(subject, state_dir) as trial:
            await check(trial)
    except Skipped as skipped:
        verdict, reason = Verdict.SKIPPED, str(skipped)
    except Violation as violation:
        verdict, reason = Verdict.FAILED, str(violation)
    except Exception as error:
        verdict, reason = Verdict.FAILED, f"the driver raised {error_text(error)}"
    promise = inspect.getdoc(check) or ""
    return Outcome(check=name, promise=promise, verdict=verdict, reason=reason, seconds=time.monotonic() - begun)


async def attempt(subject: Subject, state_dir: Path) -> None:
    """Make one workspace and remove it, to see whether there is anything to check.

    Raises:
        PrebuildsError: There is no engine, no binary or no source that works; this is the driver's own error, such as
            ProvisionerUnavailable. Any other fault is left for the checks.
    """
    try:
        async with Trial(subject, state_dir) as trial:
            trial.driver.validate(subject.working_source())
            await trial.apply(trial.build())
    except PrebuildsError:
        raise
    except Exception:
        return
