"""No log line and no error of the container driver has a claim's parameters, even where the engine quotes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from prebuilds.api import PrebuildsError, ProvisionFailed
from prebuilds.provisioners.base import InvalidSource, Provision
from prebuilds.provisioners.container.driver import ContainerProvisioner
from prebuilds.provisioners.kit.masking import MASK
from tests.identities import DEPLOYMENT, WHO

SECRET = "hunter22"
SOURCE = {
    "image": "localhost/{param.flavour}:latest",
    "command": ["sleep", "1000"],
    "pull": "missing",
    "mounts": [{"bind": "/data/{param.folder}", "target": "/data"}],
}


class ProgressLines:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)

    async def save_state(self, state: dict[str, Any]) -> None: ...


class Words:
    """A small engine that refuses everything in the words of a real one."""

    def __init__(self) -> None:
        self.has_image = False
        self.broken = False
        self.volumes: dict[str, dict[str, Any]] = {}

    async def answer(self, request: web.Request) -> web.Response:
        path = request.path.partition("/v1.41")[2] or request.path
        status, body = 200, {"Id": "1", "Volumes": []}
        name = path.removeprefix("/volumes/")
        if path == "/_ping":  # the only request without a version
            return web.Response(text="OK", headers={"Api-Version": "1.41"})
        if self.broken:
            status, body = 500, {"message": f"lock of {SECRET} is taken"}
        elif path == "/volumes/create":
            volume = await request.json()
            body = self.volumes.setdefault(volume["Name"], volume)
        elif name in self.volumes:
            body = self.volumes[name]
        elif path == "/images/create":
            body = {"error": f"manifest for {request.query['fromImage']} not found"}
        elif path == "/containers/create":
            bind = (await request.json())["HostConfig"]["Mounts"][0]["Source"]
            status, body = 400, {"message": f"invalid mount config: bind source path does not exist: {bind}"}
        elif path.startswith(("/containers/", "/volumes/")) or (path.startswith("/images/") and not self.has_image):
            status, body = 404, {"message": "no such thing"}
        return web.json_response(body, status=status)


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Words]:
    words, app = Words(), web.Application()
    app.router.add_route("*", "/{any:.*}", words.answer)
    async with TestServer(app, host="127.0.0.1") as server:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.port}")
        yield words


def build(**claim_parameters: str) -> Provision:
    return Provision(
        **WHO,
        workspace_id=uuid4(),
        build_number=1,
        name="dev",
        owner="alice",
        organization="acme",
        template="python",
        preset="small",
        source=SOURCE,
        parameters={"flavour": "plain", "folder": "shared"},
        claim_parameters=claim_parameters,
        claimed=True,
    )


def text_of(error: BaseException | None) -> str:
    """Return the text of an error with its causes and details."""
    if error is None:
        return ""
    return f"{error} {getattr(error, 'details', '')} {text_of(error.__cause__)}"


@pytest.mark.parametrize("how", ["apply", "claim"])
@pytest.mark.parametrize(("parameter", "words"), [("flavour", "manifest for"), ("folder", "does not exist: /data/")])
async def test_engine_messages_are_shown_without_claim_parameters(
    engine: Words, tmp_path: Path, how: str, parameter: str, words: str
) -> None:
    engine.has_image = parameter == "folder"
    progress, driver = ProgressLines(), ContainerProvisioner(tmp_path, DEPLOYMENT)
    effect = driver.apply if how == "apply" else driver.claim
    with pytest.raises(InvalidSource) as refused:
        await effect(build(**{parameter: SECRET}), progress)
    everything = text_of(refused.value) + "\n".join(progress.lines)
    assert words in everything
    assert MASK in everything
    assert SECRET not in everything
    assert refused.value.details


async def test_a_plan_hides_claim_parameters_too(engine: Words, tmp_path: Path) -> None:
    engine.broken = True
    with pytest.raises(ProvisionFailed, match=f"lock of \\{MASK[:-1]}\\) is taken") as failed:
        await ContainerProvisioner(tmp_path, DEPLOYMENT).plan(build(token=SECRET))
    assert SECRET not in text_of(failed.value)


async def test_without_a_claims_values_the_cause_is_kept(engine: Words, tmp_path: Path) -> None:
    engine.broken = True
    with pytest.raises(PrebuildsError, match=SECRET) as failed:
        await ContainerProvisioner(tmp_path, DEPLOYMENT).plan(build())
    assert failed.value.__cause__ is not None
