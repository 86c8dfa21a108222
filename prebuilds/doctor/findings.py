"""What a check of `prebuilds doctor` finds: the error of one that failed."""

from __future__ import annotations


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
