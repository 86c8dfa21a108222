"""Payloads as the SDK's pydantic converter writes them, by one converter for all.

The SDK makes a payload converter twice for each activation of a workflow, and with it a new cache of type adapters:
a tenth of what a control worker's process computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import CompositePayloadConverter, DataConverter, DefaultFailureConverter, PayloadConverter
from temporalio.exceptions import ApplicationError

from prebuilds.api import ERRORS, PrebuildsError
from prebuilds.temporal.payload_key import payload_codec
from prebuilds.vocabulary.passwords import mask
from prebuilds.vocabulary.plain_text import LINES, escape

_CONVERTERS = tuple(PydanticPayloadConverter().converters.values())


class SharedPydanticConverter(PydanticPayloadConverter):
    """Costs nothing to make."""

    def __init__(self) -> None:
        CompositePayloadConverter.__init__(self, *_CONVERTERS)

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """What cannot be decoded, where anything is taken, is its own text: a workflow then refuses it by name, while
        an error here would have it tried for ever."""
        try:
            return super().from_payloads(payloads, type_hints)
        except (RuntimeError, KeyError, ValueError):
            if type_hints:
                raise
            return [payload.data.decode(errors="replace") for payload in payloads]


class EscapingFailureConverter(DefaultFailureConverter):
    """Failures as they are, but for characters that would act where the history is shown, and passwords in them.

    A refusal has neither stack nor cause: it is an answer, and callers have no use for the server's paths.
    """

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        super().to_failure(exception, payload_converter, failure)
        if _is_refusal(exception):
            failure.stack_trace = ""
            failure.ClearField("cause")
        told: Failure | None = failure
        while told is not None:
            told.message = escape(mask(told.message), keep=LINES)
            told.stack_trace = escape(mask(told.stack_trace), keep=LINES)
            told = told.cause if told.HasField("cause") else None


class EncodedFailureConverter(EscapingFailureConverter):
    """The same, with message and stack trace where a codec encrypts them, once they are escaped."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        super().to_failure(exception, payload_converter, failure)  # causes come through here by themselves
        if not failure.HasField("encoded_attributes"):
            common = {"message": failure.message, "stack_trace": failure.stack_trace}
            failure.encoded_attributes.CopyFrom(payload_converter.to_payload(common))
            failure.message, failure.stack_trace = "Encoded failure", ""


def _is_refusal(error: BaseException) -> bool:
    """Whether *error* is one of ours that nobody repeats, in an activity or at a workflow's end."""
    if isinstance(error, PrebuildsError):
        return not error.repeated
    return isinstance(error, ApplicationError) and error.non_retryable and error.type in ERRORS


data_converter = DataConverter(
    payload_converter_class=SharedPydanticConverter, failure_converter_class=EscapingFailureConverter
)
"""Without encryption."""


def environment_converter() -> DataConverter:
    """The converter of this process's environment, which encrypts where `PREBUILDS_PAYLOAD_KEY` is set: payloads, and
    the messages and stack traces of failures. Without the key it still says so by name when it meets such a payload.

    Raises:
        ValueError: The variable cannot be read.
    """
    codec = payload_codec()
    failures = EncodedFailureConverter if codec.keys else EscapingFailureConverter
    return replace(data_converter, payload_codec=codec, failure_converter_class=failures)
