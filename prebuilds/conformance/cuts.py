"""Moments at which a call is cut off: at one of its steps, or some time after its start; and cancelling it there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from prebuilds.conformance.subject import Violation, expect
from prebuilds.conformance.trial import Kept, Trial, error_text
from prebuilds.provisioners.base import Provision


@dataclass(frozen=True)
class Cut:
    """One moment of a call. One of the two fields is set."""

    step: int | None = None
    """Number of the step, from 1. A step is a log line or a saved state; when killing, also an effect such as a written
    file."""
    after_s: float | None = None
    """Seconds after the call began."""

    def __str__(self) -> str:
        return f"at step {self.step}" if self.step is not None else f"after {(self.after_s or 0) * 1000:.0f} ms"


def spread(steps: int, seconds: float, number: int) -> list[Cut]:
    """Return about *number* steps, evenly spread over *steps* with the first and the last, and half as many times.

    Args:
        seconds: How long the whole call takes.
    """
    last = steps - 1
    # A single step is taken from the middle: before its first step a call has done nothing.
    chosen = {1 + (round(n * last / (number - 1)) if number > 1 else (last + 1) // 2) for n in range(number)}
    chosen = chosen if steps else set()
    moments = max(number // 2, 1)
    return [
        *[Cut(step=step) for step in sorted(chosen)],
        *[Cut(after_s=seconds * (n + 0.5) / moments) for n in range(moments)],
    ]


class CancellingProgress(Kept):
    """Progress that cancels its call at a step; None: at none."""

    def __init__(self, kept: Kept, step: int | None) -> None:
        super().__init__(kept.state)
        self._step = step
        self.task: asyncio.Task[object] | None = None

    def _stepped(self) -> None:
        super()._stepped()
        if self.steps == self._step and self.task is not None:
            self.task.cancel()


async def cancelled(trial: Trial, name: str, build: Provision, cut: Cut) -> None:
    """Make a call and cancel it at *cut*. A call that ends before that passes, too.

    Raises:
        Violation: The call ran on for more than `prompt_s`, or ended with another error than its cancellation.
    """
    progress = CancellingProgress(trial.kept(build), cut.step)
    task = progress.task = asyncio.ensure_future(trial.call(name, build, trial.another(), progress))
    if cut.after_s is not None:
        await asyncio.wait([task], timeout=cut.after_s)
        task.cancel()
    clock, limit_s = asyncio.get_running_loop().time, trial.subject.prompt_s
    while not task.done() and not task.cancelling():
        await asyncio.wait([task], timeout=0.01)
    begun = clock()
    await asyncio.wait([task], timeout=limit_s)
    expect(task.done(), f"{name}, cancelled {cut}, still runs {limit_s:g} s later ({clock() - begun:.1f} s)")
    if not task.cancelled() and (error := task.exception()) is not None:
        raise Violation(f"{name}, cancelled {cut}, ended with {error_text(error)} instead of CancelledError") from error
