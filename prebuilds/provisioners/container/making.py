"""Making a workspace's container: its image, the container itself, and checks of what the engine really made."""

from __future__ import annotations

from prebuilds.provisioners.base import InvalidSource, Progress
from prebuilds.provisioners.container.engine import Engine
from prebuilds.provisioners.container.registries import auth_for
from prebuilds.provisioners.container.source import ContainerSource
from prebuilds.provisioners.container.spec import Spec
from prebuilds.provisioners.container.state import Container


async def ensure_image(engine: Engine, source: ContainerSource, image: str, progress: Progress) -> None:
    """Pull the image where the template says so.

    Raises:
        InvalidSource: The engine does not have the image, and it was not or could not be pulled.
        ProvisionFailed: The credentials for its registry could not be read.
    """
    present = await engine.has_image(image, source.platform)
    if source.pull == "always" or (not present and source.pull == "missing"):
        progress(f"pulling {image}")
        auth = await auth_for(image, source.registry_auth)
        async for line in engine.pull(image, source.platform, auth):
            progress(f"pulling {image}: {line}")
        present = await engine.has_image(image, source.platform)
    if not present:
        wanted = f"{image} for {source.platform}" if source.platform is not None else image
        message = f"the engine does not have the image {wanted}, and pull is {source.pull}"
        raise InvalidSource.field("source.image", message, "correct its name, or have the engine pull it")


async def make_container(
    engine: Engine, name: str, spec: Spec, *, old: Container | None, present: Container | None
) -> Container:
    """Return the workspace's container, started.

    Args:
        old: The container to be replaced; None: none has to be.
        present: The workspace's container; it is used unless it is *old*. None: there is none yet.
    Raises:
        InvalidSource: The engine cannot give the container what the template wants.
        OwnedByAnother: The name belongs to another workspace.
    """
    if old is not None:
        await engine.remove(name)
    container = await engine.make(name, spec) if present is None or old is not None else present
    if spec.needs_health_check and not container.has_health_check:  # not every engine shows an image's own check
        message = f"the image {spec.image} has no HEALTHCHECK"
        raise InvalidSource.field("source.ready.healthcheck", message, "say in another way when it is ready")
    if spec.runtime not in (None, container.runtime):  # Podman ignores the runtime silently
        message = f"the engine runs containers by {container.runtime} and did not take {spec.runtime}"
        remedy = "set the runtime in the engine's own configuration, and leave it out here"
        raise InvalidSource.field("source.runtime", message, remedy)
    if spec.needs_gpus and not container.has_gpus:  # Podman 4 ignores the request silently
        message = "the engine did not take the request for GPUs"
        raise InvalidSource.field("source.gpus", message, "use an engine that has them, or leave gpus out")
    if not container.running:
        await engine.start(name)
    return container
