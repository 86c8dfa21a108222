"""What the demo needs of a container engine: that it answers, an image, and that nothing is left on it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from uuid import UUID

from prebuilds.api import PrebuildsError, ProvisionerUnavailable
from prebuilds.provisioners.base import Provision
from prebuilds.provisioners.container import ContainerProvisioner
from prebuilds.provisioners.container_engine import Engines

IMAGE = "docker.io/library/busybox:1.36"
IMAGE_VARIABLE = "DEMO_IMAGE"
LAST_BUILD = 1_000_000


def missing() -> str | None:
    """What this machine lacks; nothing once the engine has the image."""
    return asyncio.run(_missing(_image()))


def with_image(text: str) -> str:
    """The example with the image that was asked for."""
    return text.replace(IMAGE, _image())


def _image() -> str:
    return os.environ.get(IMAGE_VARIABLE) or IMAGE


async def _missing(image: str) -> str | None:
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
    """Remove this demo's containers and volumes, and nobody else's."""
    asyncio.run(_clean(ContainerProvisioner(state_dir)))


async def _clean(driver: ContainerProvisioner) -> None:
    for item in await driver.inventory():
        await driver.destroy(_gone(item.workspace_id), _Silent())


class _Silent:
    def __call__(self, line: str) -> None: ...

    async def save_state(self, state: dict[str, object]) -> None: ...


def _gone(workspace_id: UUID) -> Provision:
    return Provision(
        workspace_id=workspace_id,
        build_number=LAST_BUILD,
        name="gone",
        owner="prebuilds",
        organization="acme",
        template="python",
        preset=None,
        source={},
    )
