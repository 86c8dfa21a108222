"""Sends the log of the Temporal SDK's core to Python's logging, and so to stderr. By default it is coloured text on
stdout."""

from __future__ import annotations

import logging
from functools import cache

from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter

CORE_LOGGING = LoggingConfig(
    filter=TelemetryFilter(core_level="WARN", other_level="ERROR"),
    forwarding=LogForwardingConfig(logger=logging.getLogger("temporalio.core")),
)


@cache
def logging_runtime() -> Runtime:
    """Return the runtime of all our clients without a runtime of their own.

    There is one per process, since each runtime has threads of its own.
    """
    return Runtime(telemetry=TelemetryConfig(logging=CORE_LOGGING))
