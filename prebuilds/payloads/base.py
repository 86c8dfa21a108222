"""The base of every payload, and the validation of what comes from outside."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prebuilds.api import InvalidInput
from prebuilds.payloads.messages import field_messages


class Payload(BaseModel):
    """Base of all payloads. It refuses unknown keys by name: a mistyped key must not be silently ignored.

    Validators are built at their first use, since a command uses few of them. A worker builds all by
    `build_validators`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


ONLY_LEASED: Any = Field(default=None, exclude_if=lambda value: value is None)
"""A field that is written only for workspaces with a lease. The release before refuses unknown keys, so it can still
read all other records."""
ONLY_PAUSED: Any = Field(default=None, exclude_if=lambda value: value is None)
"""A field that is written only for a paused prebuild, for the same reason."""
ONLY_STANDBY: Any = Field(default=0, exclude_if=lambda value: not value)
"""A count of pools with a standby, which is left out if it is 0, for the same reason."""

P = TypeVar("P", bound=BaseModel)


def build_validators(base: type[BaseModel] = Payload) -> None:
    """Build the validators of all payloads that are defined so far, so that no claim waits for one."""
    base.model_rebuild()
    for model in base.__subclasses__():
        build_validators(model)


def parse_input(model: type[P], raw: object, what: str) -> P:
    """Validate input that came from outside.

    Args:
        model: The payload that the input should be.
        raw: JSON as Temporal decoded it: a dict, or None, which stands for an empty object.
        what: The input's name in the message, such as `claim`.
    Raises:
        InvalidInput: The input is not a valid *model*. The details name each wrong field.
    """
    try:
        return model.model_validate({} if raw is None else raw)
    except ValidationError as error:
        raise InvalidInput.fields(field_messages(error), what) from error
