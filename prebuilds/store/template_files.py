"""The files that template versions keep, stored once for each digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from prebuilds.provisioners.kit.trees import KeptTree

# Files are compared by content, since a row may be damaged. An archive of the same files by another compressor is
# replaced as well.
HAS_FILES = text("""
    SELECT EXISTS (SELECT FROM template_files WHERE digest = :digest AND sha256(archive) = :archive_sha256)
""")
STORE_FILES = text("""
    INSERT INTO template_files (digest, manifest, archive) VALUES (:digest, CAST(:manifest AS jsonb), :archive)
        ON CONFLICT (digest) DO UPDATE SET manifest = excluded.manifest, archive = excluded.archive
""")
READ_MANIFEST = text("SELECT manifest FROM template_files WHERE digest = :digest")
READ_ARCHIVE = text("SELECT archive FROM template_files WHERE digest = :digest")


async def store_files(connection: AsyncConnection, files: KeptTree) -> None:
    """Store these files, unless they are stored already. A damaged row of them is mended."""
    known = {"digest": files.digest, "archive_sha256": hashlib.sha256(files.archive).digest()}
    if await connection.scalar(HAS_FILES, known):
        return  # an archive has up to 4 MiB, which need not travel again
    row = {"digest": files.digest, "manifest": json.dumps(files.manifest), "archive": files.archive}
    await connection.execute(STORE_FILES, row)


async def read_manifest(connection: AsyncConnection, digest: str | None) -> Mapping[str, Mapping[str, Any]]:
    """Return what `KeptTree.manifest` says of these files; an empty one for None."""
    if digest is None:
        return {}
    manifest: Mapping[str, Mapping[str, Any]] = (
        await connection.execute(READ_MANIFEST, {"digest": digest})
    ).scalar_one()
    return manifest


async def read_files(connection: AsyncConnection, digest: str | None) -> bytes | None:
    """Return the archive of these files, for `Provision.files`; None for None."""
    return None if digest is None else await connection.scalar(READ_ARCHIVE, {"digest": digest})
