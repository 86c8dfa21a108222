"""Workers as the project configures them."""

from __future__ import annotations

from importlib.metadata import version

from temporalio.testing import WorkflowEnvironment

from prebuilds.bench.noop import Noop
from prebuilds.payloads import Payload
from prebuilds.temporal.workers import worker_on


async def test_a_worker_has_built_every_validator_before_it_serves(dev: WorkflowEnvironment) -> None:
    class NotUsedYet(Payload):
        """The model is defined here because another test's worker builds all models defined by then."""

        number: int

    assert not NotUsedYet.__pydantic_complete__
    made = worker_on(dev.client, "queue", workflows=[Noop])
    assert NotUsedYet.__pydantic_complete__
    assert made.config()["build_id"] == f"prebuilds-{version('prebuilds')}", "not what the SDK makes of all imports"
