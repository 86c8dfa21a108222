"""The embedded stack's own token, so that whoever runs `prebuilds dev` types none.

It has every right, as its holder has anyhow: the same folder has the database.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import TokenNotFound
from prebuilds.operations.tokens import TokenOperations
from prebuilds.store.engine import create_engine
from prebuilds.store.tokens import find_token
from prebuilds.temporal.stack_file import TOKEN_FILE
from prebuilds.vocabulary.actors import Actor
from prebuilds.vocabulary.scopes import Right, Scope
from prebuilds.vocabulary.tokens import TokenProof, read_token

NAME = "local"
DEV = Actor("prebuilds dev")


async def keep_local_token(database_url: str, state_dir: Path) -> Path:
    """Make sure that the state folder has a good token, for its owner alone.

    The one of an earlier start stays while it is good. Else it is revoked and another one takes its name, so also when
    an earlier start was killed before it wrote the file.

    Returns:
        The file that has it.
    """
    path = state_dir / TOKEN_FILE
    engine = create_engine(database_url)
    try:
        if await _is_good(engine, path):
            path.chmod(0o600)
            return path
        tokens = TokenOperations(engine)
        with suppress(TokenNotFound):
            await tokens.revoke(DEV, NAME)
        made = await tokens.create(DEV, NAME, [str(Scope(Right.ADMIN))])
    finally:
        await engine.dispose()
    _write(path, made.token)
    return path


async def _is_good(engine: AsyncEngine, path: Path) -> bool:
    proof = _read(path)
    found = None if proof is None else await find_token(engine, proof.id)
    return proof is not None and found is not None and found.state == "good" and proof.matches(found.digest)


def _read(path: Path) -> TokenProof | None:
    try:
        return read_token(path.read_text().strip())
    except (OSError, UnicodeDecodeError):
        return None


def _write(path: Path, token: str) -> None:
    new = path.with_name(f"{TOKEN_FILE}.new")
    new.unlink(missing_ok=True)  # an old file would keep its mode
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{token}\n")
    new.replace(path)
