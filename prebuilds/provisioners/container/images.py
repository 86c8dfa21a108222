"""Calls to the engine about images."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from aiodocker import Docker, DockerError

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.container.answers import UNKNOWN_IMAGE, engine_errors
from prebuilds.provisioners.container.registries import Auth, full_name
from prebuilds.provisioners.kit.masking import masker

PULL_LINE_INTERVAL_S = 2.0
"""At most one log line per interval: an engine reports every layer of a pull many times a second."""
SECRET_FIELDS = ("password", "identitytoken", "registrytoken")
PULL_REMEDY = (
    "correct the image's name; for a private registry, give credentials by registry_auth or the worker's DOCKER_CONFIG"
)


class Images:
    """The calls of one connection about images. They raise the errors of `engine_errors`."""

    _docker: Docker

    async def has_image(self, image: str, platform: str | None = None) -> bool:
        """Return whether the engine has the image already, for that platform where one is named."""
        with engine_errors(f"looking for the image {image}", never=(400,), field="source.image"):
            try:
                about = await self._docker.images.inspect(image)
            except DockerError as error:
                if error.status == 404:
                    return False
                raise
        if platform is None:
            return True
        os, architecture, *variant = platform.split("/")
        return (about.get("Os"), about.get("Architecture")) == (os, architecture) and (
            not variant or about.get("Variant") in (None, "", variant[0])
        )

    async def pull(self, image: str, platform: str | None = None, auth: Auth | None = None) -> AsyncIterator[str]:
        """Pull an image. Yields a line about its progress every `PULL_LINE_INTERVAL_S` at most.

        Args:
            platform: None: the engine's own.
            auth: Credentials for its registry; None: the engine's own, if it has any. No line and no error has them.
        Raises:
            InvalidSource: The image does not exist, or the registry denies it to this engine.
        """
        last_line_at = float("-inf")
        mask = masker([value for key, value in (auth or {}).items() if key in SECRET_FIELDS])
        name = image if auth is None else full_name(image)
        try:
            with engine_errors(f"pulling {image}"):
                async for chunk in self._docker.images.pull(name, platform=platform, auth=auth, stream=True):
                    words = (chunk.get("id"), chunk.get("status") or chunk.get("stream"), chunk.get("progress"))
                    if any(words) and time.monotonic() - last_line_at >= PULL_LINE_INTERVAL_S:
                        last_line_at = time.monotonic()
                        yield mask(" ".join(str(word).strip() for word in words if word))
        except ProvisionFailed as error:
            error.hide(mask)
            if any(words in error.message.lower() for words in UNKNOWN_IMAGE):
                raise InvalidSource(error.message, {"source.image": error.message}, remedy=PULL_REMEDY) from None
            raise error from None  # its cause has the same words, not masked
