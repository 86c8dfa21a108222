"""Images from private registries and by digest; credentials come from the worker, and are in no line and no error."""

from __future__ import annotations

import base64
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.container.driver import ContainerProvisioner
from tests.e2e.container.builds import SERVE, SLEEP, BuildLog, log
from tests.e2e.podman import Podman
from tests.e2e.provisions import wanted
from tests.e2e.registry import PASSWORD, USER, digest

VARIABLE = "TEAM_REGISTRY"


def config(registry: str, password: str = PASSWORD) -> str:
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    return json.dumps({"auths": {registry: {"auth": auth}}})


@pytest.fixture
def private(podman: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The source of an image that only `USER` may pull; the worker has no credentials yet."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return SLEEP | {"image": f"{podman.private}/hello", "pull": "always"}


async def test_a_private_image_is_pulled_with_the_workers_own_configuration(
    driver: ContainerProvisioner, podman: Podman, private: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(InvalidSource, match="registry_auth or the worker's DOCKER_CONFIG") as refused:
        await driver.apply(wanted(private), log)
    assert list(refused.value.details) == ["source.image"]
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text(config(podman.private))
    await driver.apply(wanted(private), log)


async def test_a_private_image_is_pulled_with_the_variable_that_the_template_names(
    driver: ContainerProvisioner, podman: Podman, private: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, pull_log = private | {"registry_auth": VARIABLE}, BuildLog()
    monkeypatch.setenv(VARIABLE, config(podman.private, "wrong-password"))
    with pytest.raises(InvalidSource) as refused:
        await driver.apply(wanted(source), pull_log)
    assert refused.value.__cause__ is None
    monkeypatch.setenv(VARIABLE, config(podman.private))
    made = await driver.apply(wanted(source), pull_log)
    all_text = f"{refused.value} {refused.value.details} {pull_log.lines} {pull_log.state} {made}"
    for secret in ("wrong-password", PASSWORD, base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()):
        assert secret not in all_text


async def test_an_image_is_pulled_by_its_digest(driver: ContainerProvisioner, podman: Podman) -> None:
    with urllib.request.urlopen(f"http://{podman.registry}/v2/hello/manifests/latest") as answer:
        latest = digest(answer.read())
    source = SLEEP | {"image": f"{podman.registry}/hello@{latest}", "pull": "missing"}
    build = wanted(source)
    await driver.apply(build, log)
    assert await driver.probe(build.workspace_id)
    with pytest.raises(InvalidSource):
        await driver.apply(wanted(source | {"image": f"{podman.registry}/hello@{digest(b'else')}"}), log)


async def test_probes_do_not_go_through_the_workers_proxy(
    driver: ContainerProvisioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    build = wanted(SERVE)
    await driver.apply(build, log)
    assert await driver.probe(build.workspace_id)
