"""Types of values that several entries of a template file have."""

from __future__ import annotations

import re
from collections import Counter
from datetime import timedelta
from functools import cache
from typing import Annotated
from zoneinfo import available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, WithJsonSchema

from prebuilds.vocabulary import Duration
from prebuilds.vocabulary.plain_text import VALUES, check_plain

INSTANCES_MAX = 10_000
"""A higher count is more often a typing error than meant."""
PARAMETER_LENGTH_MAX = 8192
_PERCENTAGE = re.compile(r"(0|[1-9][0-9]?|100)%")
_PARAMETER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def _parameter_name(value: str) -> str:
    if not _PARAMETER_NAME.fullmatch(value):
        raise ValueError("a parameter's name must be 1 to 64 letters, digits, underscores, dots and dashes")
    return value


def _parameter_value(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str):
        raise ValueError("must be text, a number, true or false")
    if len(value) > PARAMETER_LENGTH_MAX:
        raise ValueError(f"must be at most {PARAMETER_LENGTH_MAX} characters")
    return check_plain(value, keep=VALUES)


def distinct(values: list[str]) -> list[str]:
    """Return *values*; raise ValueError if one of them is repeated."""
    repeated = sorted(value for value, count in Counter(values).items() if count > 1)
    if repeated:
        raise ValueError(f"has {', '.join(repeated)} more than once")
    return values


def _positive(value: timedelta) -> timedelta:
    if not value:
        raise ValueError("must be more than 0")
    return value


def _none_for_zero(value: timedelta | None) -> timedelta | None:
    return value or None


def _amount(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INSTANCES_MAX:
        return value
    if isinstance(value, str) and _PERCENTAGE.fullmatch(value):
        return value
    raise ValueError(f"must be a number from 0 to {INSTANCES_MAX}, or a percentage from 0% to 100%")


def _percentage(value: str) -> str:
    if not _PERCENTAGE.fullmatch(value):
        raise ValueError("must be a percentage from 0% to 100%")
    return value


_time_zones = cache(available_timezones)


def _timezone(value: str) -> str:
    if value not in _time_zones():
        raise ValueError("must be the name of a time zone, such as Europe/Berlin or UTC")
    return value


Instances = Annotated[StrictInt, Field(ge=0, le=INSTANCES_MAX)]
Amount = Annotated[int | str, BeforeValidator(_amount), WithJsonSchema({"type": ["integer", "string"]})]
"""A number of prebuilds, or a percentage such as `25%`."""
Percentage = Annotated[str, AfterValidator(_percentage), WithJsonSchema({"type": "string"})]
"""A percentage such as `5%`."""
ParameterName = Annotated[str, AfterValidator(_parameter_name)]
ParameterValue = Annotated[
    str, BeforeValidator(_parameter_value), WithJsonSchema({"type": ["string", "number", "boolean"]})
]
PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
Limit = Annotated[Duration | None, AfterValidator(_none_for_zero)]
"""A duration, or None for no limit; 0 means None too."""
TimeZone = Annotated[str, AfterValidator(_timezone)]
