"""A short version of `make inputs`."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator

import pytest

from prebuilds.store.engine import create_engine
from tests.conftest import create_database, database_at, drop_database
from tests.inputs.campaigns import Campaign, campaigns, prepare
from tests.inputs.values import Trial

EXAMPLES = 6
DATABASE = "inputs"


@pytest.fixture(scope="module")
def tried(
    postgres_server: str, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Campaign]]:
    with asyncio.Runner() as runner:
        runner.run(create_database(postgres_server, DATABASE, template=migrated_template))
        url = database_at(postgres_server, DATABASE)
        trial = Trial(create_engine(url), url, tmp_path_factory.mktemp("inputs"), runner)
        logging.disable(logging.CRITICAL)
        try:
            runner.run(prepare(trial))
            yield campaigns(trial)
        finally:
            logging.disable(logging.NOTSET)
            trial.close()
            runner.run(drop_database(postgres_server, DATABASE))


@pytest.mark.parametrize("name", ["templates", "claims", "environment", "commands", "drivers", "workflows"])
def test_no_input_causes_a_fault(tried: dict[str, Campaign], name: str) -> None:
    ended: Counter[str] = Counter()
    tried[name].run(EXAMPLES, 1, ended, shrink=False)  # shrinking takes minutes, and the blob says it all
    assert ended.total() >= EXAMPLES
