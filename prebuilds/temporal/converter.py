"""Data converters that write payloads as the SDK's pydantic converter does, and escape and encrypt failures.

The SDK makes a payload converter twice for each activation of a workflow, and with it a new cache of type adapters.
That took a tenth of a control worker's CPU time, so all our payload converters share their parts.
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
    """The SDK's pydantic converter with shared parts, so that making one costs nothing."""

    def __init__(self) -> None:
        CompositePayloadConverter.__init__(self, *_CONVERTERS)

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """Decode payloads. Where any type is accepted, payloads that cannot be decoded are returned as text.

        The workflow then refuses such input with a message. An error here would be retried for ever.
        """
        try:
            return super().from_payloads(payloads, type_hints)
        except (RuntimeError, KeyError, ValueError):
            if type_hints:
                raise
            return [payload.data.decode(errors="replace") for payload in payloads]


class EscapingFailureConverter(DefaultFailureConverter):
    """Writes failures without passwords, and with control characters escaped, since histories are shown in terminals.

    A refusal is written without stack and cause. It is an answer, and callers have no use for the server's paths.
    """

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        """Write *exception* into *failure*."""
        super().to_failure(exception, payload_converter, failure)
        if _is_refusal(exception):
            failure.stack_trace = ""
            failure.ClearField("cause")
        link: Failure | None = failure
        while link is not None:
            link.message = escape(mask(link.message), keep=LINES)
            link.stack_trace = escape(mask(link.stack_trace), keep=LINES)
            link = link.cause if link.HasField("cause") else None


class EncodedFailureConverter(EscapingFailureConverter):
    """Moves the escaped message and stack trace into the attributes that a codec encrypts."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        """Write *exception* into *failure*."""
        super().to_failure(exception, payload_converter, failure)  # the SDK calls this method for each cause, too
        if not failure.HasField("encoded_attributes"):
            common = {"message": failure.message, "stack_trace": failure.stack_trace}
            failure.encoded_attributes.CopyFrom(payload_converter.to_payload(common))
            failure.message, failure.stack_trace = "Encoded failure", ""


def _is_refusal(error: BaseException) -> bool:
    """Whether *error* is one of our errors that is not retried, from an activity or from a workflow."""
    if isinstance(error, PrebuildsError):
        return not error.repeated
    return isinstance(error, ApplicationError) and error.non_retryable and error.type in ERRORS


data_converter = DataConverter(
    payload_converter_class=SharedPydanticConverter, failure_converter_class=EscapingFailureConverter
)
"""The converter without encryption."""


def environment_converter() -> DataConverter:
    """Return the converter of this process's environment.

    If `PREBUILDS_PAYLOAD_KEY` is set, it encrypts payloads, and the messages and stack traces of failures. Without the
    key, it raises an error that names the missing key when it has to decode an encrypted payload.

    Raises:
        ValueError: The variable cannot be read.
    """
    codec = payload_codec()
    failures = EncodedFailureConverter if codec.keys else EscapingFailureConverter
    return replace(data_converter, payload_codec=codec, failure_converter_class=failures)
