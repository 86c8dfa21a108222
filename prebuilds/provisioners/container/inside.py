"""Calls to the engine about what is in one container: files are written, read and looked for, commands are run.

Reading and looking use the engine's archives, so they need no program in the image, not even a shell.
"""

from __future__ import annotations

import asyncio
import io
import tarfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from posixpath import dirname, normpath, relpath
from posixpath import join as joined

import aiohttp
from aiodocker import Docker, DockerError

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.container.answers import engine_errors

OUTPUT_BYTES_MAX = 64_000
FILE_BYTES_MAX = 1_000_000
"""The longest file that is read. It comes from an image or a workspace, which may try to exhaust the worker."""
LINKS_MAX = 5
EXIT_POLL_S = 0.02


class Inside:
    """The calls of one connection about the inside of a container. They raise the errors of `engine_errors`."""

    _docker: Docker

    async def put(
        self, name: str, files: Mapping[str, str], *, below: str = "/", mode: int, owner: tuple[int, int]
    ) -> None:
        """Write files into the container; missing folders are created, root's and passable for everybody.

        Args:
            files: Full path -> text.
            below: A folder of the container that has them all. Docker writes into a read-only container only below one
                of its mounts.
            mode: The files' permission bits.
            owner: The files' user id and group id.
        """
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for path, text in files.items():
                content = text.encode()
                entry = tarfile.TarInfo(relpath(path, below))
                entry.size, entry.mode, entry.mtime = len(content), mode, int(time.time())
                entry.uid, entry.gid = owner
                tar.addfile(entry, io.BytesIO(content))
        with engine_errors(f"writing into {name}"):
            container = self._docker.containers.container(name)
            await container.put_archive(below, packed.getvalue())  # type: ignore[no-untyped-call]

    async def run(
        self, name: str, words: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float
    ) -> tuple[int | None, str]:
        """Run a command in the container, as the container's user.

        Returns its exit code, or None if it did not end within *timeout_s*, and the end of its output.
        """
        output = bytearray()
        with engine_errors(f"running a command in {name}"):
            # None instead of an empty list, which some engines refuse.
            exec_ = await self._docker.containers.container(name).exec(list(words), environment=dict(env or {}) or None)
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s), exec_.start(detach=False) as stream:
                    while (message := await stream.read_out()) is not None:
                        output += message.data
                        if len(output) > 2 * OUTPUT_BYTES_MAX:
                            del output[:-OUTPUT_BYTES_MAX]
                    state = await exec_.inspect()
                    while state["Running"]:  # it still runs for a moment after it has closed its output
                        await asyncio.sleep(EXIT_POLL_S)
                        state = await exec_.inspect()
                    return int(state["ExitCode"]), _end_of(output)
        return None, _end_of(output)

    async def exists(self, name: str, path: str) -> bool:
        """Return whether the container has a file or a link at *path*, a full path."""
        with engine_errors(f"looking for {path} in {name}"):
            try:
                async with self._archive(name, path):  # a HEAD's refusal would have no status
                    return True
            except DockerError as error:
                if _is_missing(error):
                    return False
                raise

    async def read(self, name: str, path: str) -> str | None:
        """Return the text of the container's file *path*, a full path; links are followed. None: there is no such file.

        Raises:
            ProvisionFailed: It is longer than `FILE_BYTES_MAX`.
        """
        for _ in range(LINKS_MAX):
            packed = await self._packed(name, path)
            if packed is None:
                return None
            with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
                entry = tar.next()
                if entry is not None and entry.isreg():
                    content = tar.extractfile(entry)
                    return content.read().decode(errors="replace") if content is not None else None
                if entry is None or not entry.issym():
                    return None
                path = normpath(joined(dirname(path), entry.linkname))
        return None

    async def _packed(self, name: str, path: str) -> bytes | None:
        packed = b""
        with engine_errors(f"reading {path} in {name}"):
            try:
                async with self._archive(name, path) as answer:
                    async for chunk in answer.content.iter_chunked(2**16):
                        packed += chunk
                        if len(packed) > FILE_BYTES_MAX:
                            raise ProvisionFailed(f"{path} in {name} is longer than {FILE_BYTES_MAX} bytes")
            except DockerError as error:
                if _is_missing(error):
                    return None
                raise
        return packed

    @asynccontextmanager
    async def _archive(self, name: str, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self._docker._query(f"containers/{name}/archive", params={"path": path}) as answer:
            try:
                yield answer
            finally:
                answer.close()  # the rest of it is not read


def _is_missing(error: DockerError) -> bool:
    # Docker answers 500 where a part of the path is a file.
    return error.status == 404 or "not a directory" in error.message


def _end_of(output: bytearray) -> str:
    return output[-OUTPUT_BYTES_MAX:].decode(errors="replace")
