"""Each registry gets its own credentials, and no error contains any."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.container.registries import auth_for, full_name, registry_of

SECRET = "hunter2hunter2"
BASIC = base64.b64encode(f"robot:{SECRET}:x".encode()).decode()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


def write(folder: Path, **config: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("image", "registry", "full"),
    [
        ("busybox", "docker.io", "docker.io/library/busybox"),
        ("acme/dev:1", "docker.io", "docker.io/acme/dev:1"),
        ("index.docker.io/acme/dev", "docker.io", "docker.io/acme/dev"),
        ("localhost/dev", "localhost", "localhost/dev"),
        ("registry.example:5000/a/b@sha256:1", "registry.example:5000", "registry.example:5000/a/b@sha256:1"),
    ],
)
def test_an_image_s_registry_is_read_from_its_name(image: str, registry: str, full: str) -> None:
    assert (registry_of(image), full_name(image)) == (registry, full)


@pytest.mark.parametrize(
    ("key", "image", "goes"),
    [
        ("registry.example", "registry.example/dev", True),
        ("https://registry.example/v2/", "registry.example/dev", True),
        ("https://index.docker.io/v1/", "busybox", True),
        ("registry.example/team", "registry.example/team/dev", True),
        ("registry.example/team", "registry.example/teams/dev", False),
        ("registry.example", "registry.example.evil/dev", False),
        ("registry.example", "registry.example:5000/dev", False),
        ("registry.example", "evil.example/registry.example/dev", False),
    ],
)
async def test_credentials_go_to_their_own_registry_alone(folder: Path, key: str, image: str, goes: bool) -> None:
    write(folder, auths={key: {"auth": BASIC}})
    found = await auth_for(image, None)
    assert (found is not None) is goes
    if found is not None:
        assert found == {"username": "robot", "password": f"{SECRET}:x", "serveraddress": registry_of(image)}


async def test_tokens_and_plain_pairs_are_read(folder: Path) -> None:
    write(folder, auths={"a.example": {"identitytoken": "t"}, "b.example": {"username": "u", "password": "p"}})
    assert await auth_for("a.example/x", None) == {"identitytoken": "t", "serveraddress": "a.example"}
    assert await auth_for("b.example/x", None) == {"username": "u", "password": "p", "serveraddress": "b.example"}


async def test_without_a_configuration_there_are_none(folder: Path) -> None:
    assert await auth_for("registry.example/x", None) is None


async def test_a_helper_is_asked_for_its_registry(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = folder / "docker-credential-tests"
    helper.write_text(
        "#!/bin/sh\nread server\n"
        f"[ $server = a.example ] || {{ echo none for $server; exit 1; }}\n"
        f'echo \'{{"Username": "u", "Secret": "{SECRET}"}}\'\n'
    )
    helper.chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    write(folder, credHelpers={"a.example": "tests"}, auths={"b.example": {"auth": BASIC}})
    assert await auth_for("a.example/x", None) == {"username": "u", "password": SECRET, "serveraddress": "a.example"}
    assert (await auth_for("b.example/x", None) or {})["username"] == "robot"
    write(folder, credsStore="tests")
    assert await auth_for("c.example/x", None) is None
    write(folder, credsStore="of-a-desktop", auths={"b.example": {"auth": BASIC}})
    assert (await auth_for("b.example/x", None) or {})["username"] == "robot", "the helper is not installed here"
    write(folder, credsStore="../tests")
    with pytest.raises(ProvisionFailed, match="no program's name"):
        await auth_for("c.example/x", None)


async def test_missing_registry_credentials_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, auths={"b.example": {"auth": BASIC}})
    with pytest.raises(ProvisionFailed, match="environment has no TEAM"):
        await auth_for("a.example/x", "TEAM")
    monkeypatch.setenv("TEAM", json.dumps({"auths": {"a.example": {"auth": BASIC}}}))
    assert await auth_for("a.example/x", "TEAM") is not None
    with pytest.raises(ProvisionFailed, match=r"TEAM has no entry for b\.example"):
        await auth_for("b.example/x", "TEAM")


@pytest.mark.parametrize("text", [SECRET, f'"{SECRET}"', f"[1, {SECRET}"])
async def test_a_configuration_that_cannot_be_read_is_not_quoted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (folder / "config.json").write_text(text)
    monkeypatch.setenv("TEAM", text)
    for variable in (None, "TEAM"):
        with pytest.raises(ProvisionFailed, match="has no Docker configuration") as failed:
            await auth_for("a.example/x", variable)
        assert SECRET not in f"{failed.value!r} {failed.value.details} {failed.value.__cause__}"
