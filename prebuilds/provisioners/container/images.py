"""Calls to the engine about images."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from aiodocker import Docker, DockerError

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.container.answers import UNKNOWN_IMAGE, engine_errors

PULL_LINE_INTERVAL_S = 2.0
"""At most one log line per interval: an engine reports every layer of a pull many times a second."""


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

    async def pull(self, image: str, platform: str | None = None) -> AsyncIterator[str]:
        """Pull an image. Yields a line about its progress every `PULL_LINE_INTERVAL_S` at most.

        Raises:
            InvalidSource: The image does not exist, or the registry denies it to this engine.
        """
        last_line_at = float("-inf")
        try:
            with engine_errors(f"pulling {image}"):
                async for chunk in self._docker.images.pull(image, platform=platform, stream=True):
                    words = (chunk.get("id"), chunk.get("status") or chunk.get("stream"), chunk.get("progress"))
                    if any(words) and time.monotonic() - last_line_at >= PULL_LINE_INTERVAL_S:
                        last_line_at = time.monotonic()
                        yield " ".join(str(word).strip() for word in words if word)
        except ProvisionFailed as error:
            if any(words in error.message.lower() for words in UNKNOWN_IMAGE):
                raise InvalidSource(error.message, {"source.image": error.message}) from error
            raise
