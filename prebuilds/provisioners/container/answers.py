"""The engine's error answers, turned into our errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from aiodocker import DockerError

from prebuilds.api import ProvisionerUnavailable, ProvisionFailed
from prebuilds.provisioners.base import InvalidSource

NOT_ANSWERING = 900
"""The status that aiodocker sets when the engine did not answer."""
UNKNOWN_IMAGE = (
    *("not found", "manifest unknown", "name unknown", "name_unknown", "does not exist", "no such image"),
    *("access denied", "access to the resource is denied", "unauthorized", "invalid reference", "image not known"),
    *("no basic auth credentials", "authentication required"),
)
"""Words by which engines and registries say that an image does not exist. Most registries answer unknown callers with a
denial in that case."""
NO_PROGRAM = ("executable file not found", "command that was not found", "no such file or directory: unknown")

WORDS = {
    "unable to find user": "source.user",
    "unable to find group": "source.user",
    "no matching entries in": "source.user",
    "unknown runtime": "source.runtime",
    "could not select device driver": "source.gpus",
    "container-init binary": "source.init",
    "docker-init": "source.init",
    "exec format error": "source.image",
}
"""Words of an engine that refuses a start -> the field that is then at fault."""


@contextmanager
def engine_errors(doing: str, *, never: tuple[int, ...] = (), field: str = "source") -> Iterator[None]:
    """Turn errors of the calls in the block into ours.

    Args:
        doing: What the calls do, for messages, such as `creating NAME`.
        never: Statuses which mean that this input can never work.
        field: The field of the template that is then at fault.
    Raises:
        ProvisionerUnavailable: The engine does not answer.
        InvalidSource: The engine will never accept this input.
        ProvisionFailed: The engine could not do it.
    """
    try:
        yield
    except DockerError as error:
        if error.status in {NOT_ANSWERING, 502, 503}:
            raise ProvisionerUnavailable(f"{doing}: {error.message}") from error
        for words, at_fault in WORDS.items():
            if words in error.message.lower():
                raise InvalidSource(f"{doing}: {error.message}", {at_fault: error.message}) from error
        if error.status in never or any(words in error.message.lower() for words in NO_PROGRAM):
            raise InvalidSource(f"{doing}: {error.message}", {field: error.message}) from error
        raise ProvisionFailed(f"{doing}: {error.message}") from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise ProvisionerUnavailable(f"{doing}: the engine does not answer ({type(error).__name__})") from error


@contextmanager
def gone_is_success() -> Iterator[None]:
    """Ignore the engine's answer that the thing does not exist."""
    try:
        yield
    except DockerError as error:
        if error.status != 404:
            raise
