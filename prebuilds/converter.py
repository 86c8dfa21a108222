"""Payloads as the SDK's pydantic converter writes them, by one converter for all.

The SDK makes a payload converter twice for each activation of a workflow, and with it a new cache of type adapters:
a tenth of what a control worker's process computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import CompositePayloadConverter, DataConverter

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


data_converter = DataConverter(payload_converter_class=SharedPydanticConverter)
