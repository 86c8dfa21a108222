"""Workers as we make them."""

from __future__ import annotations

from temporalio.testing import WorkflowEnvironment

from prebuilds.bench.noop import Noop
from prebuilds.payloads import Payload
from prebuilds.temporal.workers import worker_on


class NotUsedYet(Payload):
    """Its validator is built when it is used, unless a worker is made before."""

    number: int


async def test_a_worker_has_built_every_validator_before_it_serves(dev: WorkflowEnvironment) -> None:
    assert not NotUsedYet.__pydantic_complete__
    worker_on(dev.client, "queue", workflows=[Noop])
    assert NotUsedYet.__pydantic_complete__
