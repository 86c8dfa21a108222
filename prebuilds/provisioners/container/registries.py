"""Credentials for private registries, from Docker configurations. Each entry goes to its own registry alone.

A template names a variable of the worker's environment whose value is such a configuration (`registry_auth`). Without
it, the worker's own counts: the file `config.json` in the folder DOCKER_CONFIG, or else in `~/.docker`, with its
credential helpers. The database has the variable's name alone.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.kit.processes import base_environment

DOCKER_HUB = "docker.io"
HUB_NAMES = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")
HUB_KEY = "https://index.docker.io/v1/"
"""How Docker's own tools name the hub to a credential helper."""
HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
HELPER_TIMEOUT_S = 20.0
TOKEN_USER = "<token>"  # noqa: S105
"""The user name by which a helper says that its secret is an identity token."""

Auth = dict[str, str]
"""The engine's form: `username` and `password`, or `identitytoken` or `registrytoken`; and `serveraddress`."""


async def auth_for(image: str, variable: str | None) -> Auth | None:
    """Return the credentials for an image's registry; None when there are none, so that it is pulled without.

    Args:
        variable: The environment variable that the template names; None: the worker's own configuration.
    Raises:
        ProvisionFailed: The variable or the configuration is missing or cannot be read, it has nothing for the registry
            though the template names it, or a helper failed. The message has no credential.
    """
    if variable is not None:
        text = os.environ.get(variable)
        if text is None:
            raise ProvisionFailed(
                f"source.registry_auth: the worker's environment has no {variable}",
                remedy="start every provisioner worker with it, or leave it out of the template",
            )
        found = _entry(_parse(text, variable), image)
        if found is None:
            raise ProvisionFailed(
                f"source.registry_auth: {variable} has no entry for {registry_of(image)}",
                remedy="add the registry to its auths, or correct the image's name",
            )
        return found
    path = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    try:
        text = await asyncio.to_thread(path.read_text)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ProvisionFailed(f"{path} cannot be read ({type(error).__name__})") from error
    config = _parse(text, str(path))
    return await _from_helper(config, image) or _entry(config, image)


def registry_of(image: str) -> str:
    """Return the registry of an image's name, such as `registry.example:5000`; `docker.io` when it names none."""
    first, slash, _ = image.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    return DOCKER_HUB if not named or first in HUB_NAMES else first


def full_name(image: str) -> str:
    """Return the image's name with its registry, which engines want beside credentials."""
    first, _, rest = image.partition("/")
    if registry_of(image) != DOCKER_HUB:
        return image
    path = rest if first in HUB_NAMES else image
    return f"{DOCKER_HUB}/{path}" if "/" in path else f"{DOCKER_HUB}/library/{path}"


def _parse(text: str, where: str) -> Mapping[str, Any]:
    with suppress(ValueError):
        config = json.loads(text)
        if isinstance(config, dict):
            return config
    raise ProvisionFailed(  # the text itself is not quoted: it is a secret
        f"{where} has no Docker configuration",
        remedy='write it as JSON: {"auths": {"registry.example": {"username": "...", "password": "..."}}}',
    )


def _entry(config: Mapping[str, Any], image: str) -> Auth | None:
    """Return the entry of `auths` for the image's registry, or for the longest path in it."""
    name = full_name(image)
    best, found = "", None
    auths = config.get("auths")
    for key, entry in auths.items() if isinstance(auths, dict) else ():
        scope = _scope(key)
        if isinstance(entry, dict) and name.startswith(f"{scope}/") and len(scope) > len(best):
            best, found = scope, entry
    return _auth(found, image) if found else None


def _scope(key: str) -> str:
    """Return the registry, and the path in it if any, that a key of `auths` means."""
    plain = re.sub(r"^https?://", "", key).rstrip("/")
    plain = re.sub(r"/v[12]$", "", plain)
    registry, slash, path = plain.partition("/")
    return f"{DOCKER_HUB if registry in HUB_NAMES else registry}{slash}{path}"


def _auth(entry: Mapping[str, Any], image: str) -> Auth | None:
    auth = {key: str(entry[key]) for key in ("identitytoken", "registrytoken") if entry.get(key)}
    username, password = entry.get("username"), entry.get("password")
    if not auth and entry.get("auth"):
        with suppress(ValueError):
            decoded = base64.b64decode(str(entry["auth"])).decode().rstrip("\0")
            username, _, password = decoded.partition(":")
    if not auth and username and password:
        auth = {"username": str(username), "password": str(password)}
    return auth | {"serveraddress": registry_of(image)} if auth else None


async def _from_helper(config: Mapping[str, Any], image: str) -> Auth | None:
    registry = registry_of(image)
    helpers = config.get("credHelpers")
    name = (helpers.get(registry) if isinstance(helpers, dict) else None) or config.get("credsStore")
    if not name:
        return None
    program = f"docker-credential-{name}"
    if not HELPER_NAME.fullmatch(str(name)):
        raise ProvisionFailed("the Docker configuration names a credential helper that is no program's name")
    try:
        helper = await asyncio.create_subprocess_exec(
            *(program, "get"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=base_environment() | {key: os.environ[key] for key in ("HOME", "DOCKER_CONFIG") if key in os.environ},
        )
    except FileNotFoundError:
        return None  # a configuration copied from a desktop: public images need no credentials
    except OSError as error:
        raise ProvisionFailed(f"{program} cannot be run ({type(error).__name__})") from error
    try:
        async with asyncio.timeout(HELPER_TIMEOUT_S):
            output, _ = await helper.communicate((HUB_KEY if registry == DOCKER_HUB else registry).encode())
    except TimeoutError as error:
        raise ProvisionFailed(f"{program} did not answer within {HELPER_TIMEOUT_S:g} s") from error
    finally:
        if helper.returncode is None:
            helper.kill()
            await helper.wait()
    if helper.returncode != 0:
        return None  # it has none for this registry
    answer = _parse(output.decode(errors="replace"), f"the answer of {program}")
    user, secret = str(answer.get("Username", "")), str(answer.get("Secret", ""))
    return _auth({"identitytoken": secret} if user == TOKEN_USER else {"username": user, "password": secret}, image)
