"""An inventory reads hundreds of files and must not delay a claim's build on the same event loop."""

from __future__ import annotations

import threading
from pathlib import Path
from uuid import UUID

import pytest

from prebuilds.provisioners.process.driver import ProcessProvisioner
from prebuilds.provisioners.terraform.driver import TerraformProvisioner
from tests.identities import DEPLOYMENT


@pytest.mark.parametrize("kind", [ProcessProvisioner, TerraformProvisioner])
async def test_an_inventory_is_read_beside_the_loop(
    kind: type[ProcessProvisioner | TerraformProvisioner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, threads = kind(tmp_path, DEPLOYMENT), []

    def listed() -> list[UUID]:
        threads.append(threading.current_thread())
        return []

    monkeypatch.setattr(driver._folders, "all", listed)
    assert await driver.inventory() == []
    assert threads
    assert threading.main_thread() not in threads
