"""Payloads as the SDK's pydantic converter writes them, by one converter for all.

The SDK makes a payload converter twice for each activation of a workflow, and with it a new cache of type adapters:
a tenth of what a control worker's process computes.
"""

from __future__ import annotations

from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import CompositePayloadConverter, DataConverter

_CONVERTERS = tuple(PydanticPayloadConverter().converters.values())


class SharedPydanticConverter(PydanticPayloadConverter):
    """Costs nothing to make."""

    def __init__(self) -> None:
        CompositePayloadConverter.__init__(self, *_CONVERTERS)


data_converter = DataConverter(payload_converter_class=SharedPydanticConverter)
