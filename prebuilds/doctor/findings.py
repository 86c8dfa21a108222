"""What a check of `prebuilds doctor` finds: the error of one that failed, and the gap between two clocks."""

from __future__ import annotations

from datetime import datetime


class CheckFailed(Exception):
    """A check has failed.

    Attributes:
        detail: What is wrong.
        remedy: What to do about it.
    """

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy


def gap_s(before: datetime, theirs: datetime, after: datetime) -> float:
    """Return the seconds by which their clock is certainly ahead of ours; negative if behind, 0 if it may be right.

    Args:
        before: Our clock before the request.
        theirs: Their clock as they answered.
        after: Our clock after the answer arrived.
    """
    if theirs > after:
        return (theirs - after).total_seconds()
    return min((theirs - before).total_seconds(), 0.0)
