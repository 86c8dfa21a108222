"""One container engine for these tests, and a driver that must leave nothing in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from prebuilds.provisioners.container.driver import ContainerProvisioner
from tests.e2e.container.builds import SLEEP, log
from tests.e2e.engines import container_engine
from tests.e2e.podman import Podman
from tests.e2e.provisions import wanted
from tests.identities import DEPLOYMENT, knowing


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    with container_engine() as engine:
        yield engine


@pytest.fixture
async def driver(
    podman: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ContainerProvisioner]:
    monkeypatch.setenv("DOCKER_HOST", podman.address)
    driver = ContainerProvisioner(tmp_path, DEPLOYMENT)
    yield driver
    for item in await driver.inventory():
        await driver.destroy(knowing(wanted(SLEEP, 10_000, item.workspace_id), item), log)
    assert await driver.inventory() == []
    assert podman("ps", "--all", "--quiet") == ""
    assert podman("volume", "ls", "--quiet") == ""
