"""The campaigns by name: the input of each, and the check that returns an example's outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from temporalio.client import Client

from tests.builders import make_preset
from tests.inputs import claims, commands, drivers, environment, templates, workflows
from tests.inputs.values import Trial
from tests.postgres.pool_steps import make_ready


@dataclass(frozen=True)
class Campaign:
    """One kind of input."""

    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], str]
    """Tries one, and returns how it ended. Raises whatever nobody may see."""
    weight: float = 1.0
    """How many examples it gets, beside others: they cost more or less."""
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    """What is there while it runs."""

    def run(self, examples: int, number: int, ended: Counter[str], *, shrink: bool = True) -> None:
        """Try this many examples and count their outcomes."""

        @seed(number)
        @settings(
            max_examples=max(int(examples * self.weight), 1),
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        )
        @given(self.inputs)
        def try_one(example: Any) -> None:
            ended[self.check(example)] += 1

        with self.around():
            try_one()


def campaigns(trial: Trial) -> dict[str, Campaign]:
    """Return all campaigns on one database, which is migrated."""
    preset = trial.run(make_preset(trial.engine, organization="driven"))
    clients: list[Client] = []

    @contextmanager
    def serving() -> Iterator[None]:
        """The workers run no longer than needed: they change tables that other campaigns compare."""
        with trial.within(workflows.served(trial)) as client:
            clients[:] = [client]
            yield

    return {
        "templates": Campaign(templates.files, lambda text: trial.run(templates.check_file(trial, text)), 3),
        "claims": Campaign(
            st.tuples(claims.requests(), claims.claim_ids),
            lambda arguments: trial.run(claims.check_claim(trial, trial.pool, *arguments)),
            2,
        ),
        "environment": Campaign(
            environment.environments, lambda given: trial.run(environment.check_environment(trial, given)), 2
        ),
        "workflows": Campaign(
            workflows.runs, lambda arguments: trial.run(workflows.check_run(clients[0], *arguments)), around=serving
        ),
        "commands": Campaign(commands.command_lines(), lambda line: commands.check_line(trial, line)),
        "drivers": Campaign(
            st.tuples(st.sampled_from(drivers.METHODS), drivers.behaviours),
            lambda arguments: trial.run(drivers.check_build(trial, preset, *arguments)),
        ),
    }


async def prepare(trial: Trial) -> None:
    """Make prebuilds of acme/python/small, which files and claims of the campaigns name."""
    await make_ready(trial.engine, await make_preset(trial.engine, instances=3), 20)
