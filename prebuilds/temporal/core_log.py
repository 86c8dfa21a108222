"""The log of the Temporal SDK's core: on stderr, through Python's logging. Its own way is colours on stdout."""

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
    """The runtime of every client of ours that is given none; one a process, as each has threads of its own."""
    return Runtime(telemetry=TelemetryConfig(logging=CORE_LOGGING))
