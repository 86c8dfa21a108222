"""The search for a text: in bytes of any encoding, and in everything that a stack leaves behind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import psutil
from temporalio.client import Client

from tests.e2e.dev_stack import DevStack

ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
OUTLIVING = ("vacuum", "retention")
PACKED = re.compile(rb"eJ[A-Za-z0-9+/]{20,}={0,2}|eN[A-Za-z0-9+/]{20,}={0,2}")
"""Base64 of what zlib has compressed, as Terraform's states are kept."""


def forms_of(secret: str) -> list[bytes]:
    """Return the text itself, in hex, and in base64 at each of its three possible offsets in a longer text."""
    raw = secret.encode()
    found = [raw, raw.hex().encode(), raw.hex().upper().encode()]
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw)
        whole = encoded[4 if shift else 0 : -4]  # the first and last characters depend on the neighbouring bytes
        found += [whole, whole.translate(bytes.maketrans(b"+/", b"-_"))]
    return found


def has(data: bytes, secret: str) -> bool:
    """Return whether *data* has the secret in any form, also inside compressed parts."""
    if any(form in data for form in forms_of(secret)):
        return True
    for packed in PACKED.findall(data):
        with contextlib.suppress(zlib.error, ValueError):
            if secret.encode() in zlib.decompress(base64.b64decode(packed)):
                return True
    return False


async def in_tables(database_url: str, secret: str) -> Iterator[str]:
    """Return the columns that have it, each as `table.column`."""
    connection = await asyncpg.connect(database_url)
    try:
        columns = await connection.fetch(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
        )
        found = []
        for table, column in columns:
            rows = await connection.fetch(f'SELECT "{column}"::text FROM "{table}"')
            if has("\n".join(str(value) for (value,) in rows).encode(), secret):
                found.append(f"{table}.{column}")
        await connection.execute("CHECKPOINT")  # for the following search in the files
        return iter(sorted(found))
    finally:
        await connection.close()


async def in_histories(address: str, secret: str) -> bool:
    """Return whether an event of any workflow has it, as read by a client without keys."""
    client = await Client.connect(address)
    async for run in client.list_workflows():
        history = await client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()
        if has(b"".join(event.SerializeToString() for event in history.events), secret):
            return True
    return False


def in_files(folder: Path, secret: str) -> set[Path]:
    """Return the files below *folder* that have it."""
    found = set()
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and has(path.read_bytes(), secret):
                found.add(path)
    return found


def place_of(path: Path, state_dir: Path) -> str:
    """Return the kind of a state folder's file: its path without ids."""
    parts = path.relative_to(state_dir).parts
    if parts[0] in ("postgres", "temporal"):
        return f"files of {parts[0]}"
    return ID.sub("ID", "/".join(parts))


@contextmanager
def watched_processes(secret: str) -> Iterator[set[str]]:
    """Scan every process of the machine repeatedly until the block ends, and add the findings."""
    seen: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            for pid in psutil.pids():
                for what in ("cmdline", "environ"):
                    with contextlib.suppress(OSError):
                        if has(Path(f"/proc/{pid}/{what}").read_bytes(), secret):
                            seen.add(f"process {what}")
            ended.wait(0.02)

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield seen
    finally:
        ended.set()
        watching.join()


def places(stack: DevStack, secret: str, output: Iterable[str], spans: Callable[[], bytes]) -> set[str]:
    """Return every place where a running stack stores or prints the secret."""
    found = {f"database {column}" for column in asyncio.run(in_tables(stack.facts["database_url"], secret))}
    if asyncio.run(in_histories(stack.facts["temporal_address"], secret)):
        found.add("Temporal histories")
    found |= {place_of(path, stack.state_dir) for path in in_files(stack.state_dir, secret)}
    if has(stack.log.read_bytes(), secret):
        found.add("worker logs")
    if has("\n".join(output).encode(), secret):
        found.add("command output")
    if has(spans(), secret):
        found.add("spans and metrics")
    return found


def documented(page: Path, driver: str, *, keys: bool, deleted: bool) -> set[str]:
    """Return the places where the page's table declares a claim's secret in clear.

    Its columns: place, drivers (`all` or names), without keys, with keys, until when. A cell says `clear` where the
    secret can be read. After the workspace's deletion it is still where the last column names one of `OUTLIVING`.
    """
    found = set()
    for line in page.read_text().splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
        if len(cells) != 5:
            continue
        place, drivers, without, with_keys, until = cells
        applies = drivers == "all" or driver in drivers.replace(",", " ").split()
        if applies and (with_keys if keys else without) == "clear" and (until in OUTLIVING or not deleted):
            found.add(place)
    return found
