"""The simulation's short version; `make simulate` runs it for as long as asked."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import create_database, database_at, drop_database
from tests.simulation.machine import PoolMachine
from tests.simulation.world import World

SHORT = settings(
    max_examples=8,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking takes minutes, and the blob says it all
    print_blob=True,
)


@pytest.mark.timeout(300)
def test_any_order_of_events_keeps_the_invariants(postgres_server: str, migrated_template: str) -> None:
    with asyncio.Runner() as runner:
        database = "simulation"
        runner.run(create_database(postgres_server, database, template=migrated_template))
        PoolMachine.world = World(database_at(postgres_server, database), runner.get_loop())
        try:
            run_state_machine_as_test(PoolMachine, settings=SHORT)
        finally:
            PoolMachine.world.close()
            runner.run(drop_database(postgres_server, database))
    assert PoolMachine.steps["pass"] > 0
    assert PoolMachine.steps["claim"] > 0
