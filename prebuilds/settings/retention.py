"""How long records are kept (`PREBUILDS_RETENTION_*`). Only control workers remove any, and use these settings."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from prebuilds.vocabulary import parse_duration

RETENTION_MIN: dict[str, timedelta] = {
    "retention_workspaces": timedelta(days=7),
    "retention_builds": timedelta(days=1),
    "retention_logs": timedelta(hours=1),
    "retention_misses": timedelta(days=2),
    "retention_events": timedelta(days=1),
    "retention_notifications": timedelta(days=1),
    "retention_versions": timedelta(days=1),
    "retention_tokens": timedelta(days=1),
    "retention_requests": timedelta(hours=1),
    "retention_demand": timedelta(days=35),
    "retention_drills": timedelta(days=1),
}
"""The shortest times. An inventory looks for what deleted workspaces have left behind for 7 days, and a claim waits for
up to a day, so that a late attempt at it needs its row for longer. Sizes follow from the last weeks. The others leave a
day, or an hour, to look."""
RETENTION_MAX = timedelta(days=36_500)
"""A hundred years, which is as good as for ever and fits into every date."""


def _parse(value: object) -> object:
    """Read a duration, also one of more than a year, in days."""
    days = re.fullmatch(r"(\d{1,5})d", str(value).strip())
    return timedelta(days=int(days[1])) if days is not None else parse_duration(value)


LongDuration = Annotated[timedelta, BeforeValidator(_parse)]


class RetentionSettings(BaseSettings):
    """The times for which rows are kept that nothing needs any more but people who ask what happened."""

    retention_workspaces: LongDuration = timedelta(days=30)
    """Released workspaces with their builds, from their deletion. What a claim has won stays its answer for ever."""
    retention_builds: LongDuration = timedelta(days=30)
    """Builds of live workspaces, from their end, but for the newest of each kind."""
    retention_logs: LongDuration = Field(default=timedelta(days=14), validate_default=True)
    """Lines of builds, from the build's end."""
    retention_misses: LongDuration = timedelta(days=30)
    """Claims that won nothing, from their last answer."""
    retention_events: LongDuration = timedelta(days=90)
    """Events, but for the newest one."""
    retention_notifications: LongDuration = Field(default=timedelta(days=14), validate_default=True)
    """Notifications that were sent or given up."""
    retention_versions: LongDuration = timedelta(days=90)
    """Template versions that nothing uses, with their presets and files, from when they were made."""
    retention_tokens: LongDuration = timedelta(days=90)
    """Tokens that were revoked or have expired."""
    retention_requests: LongDuration = timedelta(days=1)
    """Answers to operators' requests through Temporal."""
    retention_demand: LongDuration = timedelta(days=90)
    """The counts of claims by minute, from which the sizes of pools follow."""
    retention_drills: LongDuration = timedelta(days=90)
    """Drills with their results, from their end, but for each template's newest and its newest success."""

    @field_validator(*RETENTION_MIN)
    @classmethod
    def _is_possible(cls, value: timedelta, info: ValidationInfo) -> timedelta:
        least = RETENTION_MIN[info.field_name or ""]
        if not least <= value <= RETENTION_MAX:
            bounds = f"{_in_words(least)} to {_in_words(RETENTION_MAX)}"
            raise ValueError(f"must be from {bounds}")
        return value

    @field_validator("retention_logs", "retention_notifications")
    @classmethod
    def _ends_with_workspaces(cls, value: timedelta, info: ValidationInfo) -> timedelta:
        longest = info.data.get("retention_workspaces")
        if longest is not None and value > longest:
            raise ValueError(
                f"must not exceed PREBUILDS_RETENTION_WORKSPACES ({_in_words(longest)}): it goes with the workspace"
            )
        return value


def retention_of(settings: RetentionSettings, rule: str) -> timedelta:
    """Return how long the rows of a rule are kept; no time for rows that carry their own end."""
    return getattr(settings, f"retention_{rule}", timedelta(0))


def _in_words(value: timedelta) -> str:
    return f"{value.days}d" if value.days else f"{value.total_seconds() / 3600:g}h"
