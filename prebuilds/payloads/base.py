"""The base of every payload, and the validation of what comes from outside."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from prebuilds.api import InvalidInput
from prebuilds.payloads.messages import field_messages


class Payload(BaseModel):
    """A record of ours. Unknown keys are refused by name: a mistyped key must not be silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=BaseModel)


def parse_input(model: type[P], raw: object, what: str) -> P:
    """Validate something that came from outside.

    Args:
        model: What it should be.
        raw: JSON as Temporal decoded it: a dict, or nothing, which stands for an empty object.
        what: What it is, for the message: `claim`.
    Raises:
        InvalidInput: Its details name each wrong field.
    """
    try:
        return model.model_validate({} if raw is None else raw)
    except ValidationError as error:
        raise InvalidInput.fields(field_messages(error), what) from error
