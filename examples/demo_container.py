"""The demo's use of a container engine: checks that it answers and has an image, and removes what the demo leaves."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from uuid import UUID

from prebuilds.api import PrebuildsError, ProvisionerUnavailable
from prebuilds.provisioners.container.engines import Engines
from prebuilds.provisioners.container.spec import DEPLOYMENT_LABEL, WORKSPACE_LABEL, container_name
from prebuilds.provisioners.state_folder import read_deployment

IMAGE = "docker.io/library/busybox:1.36"
IMAGE_VARIABLE = "DEMO_IMAGE"


def missing() -> str | None:
    """Pull the image if needed, and return what this machine lacks for the demo; None if nothing."""
    return asyncio.run(_pull_image(_image()))


def with_image(text: str) -> str:
    """Return the example's text with the image that DEMO_IMAGE names."""
    return text.replace(IMAGE, _image())


def _image() -> str:
    return os.environ.get(IMAGE_VARIABLE) or IMAGE


async def _pull_image(image: str) -> str | None:
    engines = Engines()
    try:
        async with engines.open() as engine:
            if not await engine.has_image(image):
                print(f"pulling {image}", flush=True)
                async for line in engine.pull(image):
                    print(line, flush=True)
    except ProvisionerUnavailable as error:
        return f"no container engine at {engines.address} ({error}); set DOCKER_HOST to the socket of Docker or Podman"
    except PrebuildsError as error:
        return (
            f"the engine has no image {image} ({error}); set {IMAGE_VARIABLE} to one with sh and busybox's httpd "
            "that it has or can pull"
        )
    return None


def clean(state_dir: Path) -> None:
    """Remove the containers and volumes of this demo's deployment, claimed ones included."""
    deployment_id = read_deployment(state_dir)
    if deployment_id is not None:
        asyncio.run(_remove_all({DEPLOYMENT_LABEL: str(deployment_id)}, deployment_id))


async def _remove_all(ours: dict[str, str], deployment_id: UUID) -> None:
    async with Engines().open() as engine:
        for labels, _, _ in await engine.tagged(ours):
            await engine.remove(container_name(deployment_id, UUID(labels[WORKSPACE_LABEL])))
        for volume in await engine.volumes(ours):
            await engine.remove_volume(volume["Name"])
