"""Makes Temporal workers with our settings."""

from __future__ import annotations

import gc
import os
from datetime import timedelta
from importlib import metadata
from typing import Any

from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig

from prebuilds.api import InvalidInput
from prebuilds.payloads import build_validators
from prebuilds.temporal.local_attempts import TimedAttempts
from prebuilds.temporal.typed_errors import TypedErrors

GRACE = timedelta(seconds=10)
"""How long activities may go on when their worker shuts down, before they are cancelled."""
STICKY_TIMEOUT = timedelta(seconds=1)
"""How long the workflows that a dead worker had cached wait for it; the SDK's default is 10 s."""

DEPLOYMENT_NAME, BUILD_ID = "TEMPORAL_DEPLOYMENT_NAME", "TEMPORAL_WORKER_BUILD_ID"
"""The environment variables with which Temporal's Worker Controller, or a person, gives a worker its version."""


def read_worker_version() -> WorkerDeploymentConfig | None:
    """Read this process's version of a worker deployment from the environment; None for no version.

    Every run moves to the current version at its next task. No run is pinned to the version that began it: workflow ids
    are our locks, and a pinned run whose last worker has gone would hold its build, preset or claim for ever.
    Source: docs/decisions/0049.

    Raises:
        InvalidInput: Only one of the two variables is set.
    """
    name, build_id = os.environ.get(DEPLOYMENT_NAME, ""), os.environ.get(BUILD_ID, "")
    if not name and not build_id:
        return None
    if not name or not build_id:
        missing, given = (DEPLOYMENT_NAME, BUILD_ID) if build_id else (BUILD_ID, DEPLOYMENT_NAME)
        raise InvalidInput.field(missing, f"it is not set, and {given} is", "set both, or neither")
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(deployment_name=name, build_id=build_id),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.AUTO_UPGRADE,
    )


COLLECTED_AFTER = (20_000, 20, 50)
"""Thresholds of the garbage collector's three generations. With Python's default of 700 objects, it examined the same
hundreds of open requests again and again, which took a tenth of a claim's time."""


def settle_heap() -> None:
    """Exempt all objects that exist now from garbage collection.

    They stay for good, and a full collection that visits them delays every claim by a tenth of a second. Call it once,
    when the process has loaded what it works with.

    A worker's process has disabled the collector until now. It is then enabled without a collection, which would go
    through all imported objects for 0.2 s of CPU and find next to nothing.
    """
    if gc.isenabled():
        gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)
    gc.enable()


def worker_on(client: Client, queue: str, **options: Any) -> Worker:
    """Return a worker of *queue* with our settings. *options* are those of `temporalio.worker.Worker`."""
    build_validators()  # otherwise a payload's validator would be built at its first use, within a workflow
    if options.get("deployment_config") is None:
        # By default the SDK hashes the code of all imported modules, which takes 0.2 s of CPU time at each start.
        options["build_id"] = f"prebuilds-{metadata.version('prebuilds')}"
    return Worker(
        client,
        task_queue=queue,
        interceptors=[TimedAttempts(), TypedErrors()],
        # The workflow tests run every workflow in the sandbox. Here the sandbox would cost a claim 7 to 10 ms.
        workflow_runner=UnsandboxedWorkflowRunner(),
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
        graceful_shutdown_timeout=GRACE,
        **options,
    )
