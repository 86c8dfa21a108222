"""The files that template versions keep: written once by their digest, and never changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from prebuilds.provisioners.kit.trees import KeptTree

HAS_FILES = text("SELECT EXISTS (SELECT FROM template_files WHERE digest = :digest)")
KEEP_FILES = text("""
    INSERT INTO template_files (digest, manifest, archive) VALUES (:digest, CAST(:manifest AS jsonb), :archive)
        ON CONFLICT (digest) DO NOTHING
""")
READ_MANIFEST = text("SELECT manifest FROM template_files WHERE digest = :digest")
READ_ARCHIVE = text("SELECT archive FROM template_files WHERE digest = :digest")


async def keep_files(connection: AsyncConnection, files: KeptTree) -> None:
    """Store these files, unless a version has them already."""
    if await connection.scalar(HAS_FILES, {"digest": files.digest}):
        return  # an archive has up to 4 MiB, which need not travel again
    row = {"digest": files.digest, "manifest": json.dumps(files.manifest), "archive": files.archive}
    await connection.execute(KEEP_FILES, row)


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
