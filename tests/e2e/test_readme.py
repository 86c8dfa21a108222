"""The console blocks of the README and of `docs/other-languages.md`, typed one after the other as a stranger would.

What each prints must be what is written below it. Ids, ports, times and counts of passes differ from run to run: they
are masked, and a later command that repeats a written id is given the one that took its place.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.dev_stack import BIN, DevStack, TypedStack, until

ROOT = Path(__file__).parents[2]
HTTP = "http://127.0.0.1:8080"
"""Address of the HTTP server in the pages; a test's stack has another."""
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MASKED = (
    (ID, "ID"),
    (re.compile(r"127\.0\.0\.1:\d+"), "ADDRESS"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "TIME"),
    (re.compile(r"\d+ pass(es)?, the last \d+\w ago"), "N passes"),
    (re.compile(r"[ \t]+"), " "),
)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    stack = TypedStack(tmp_path_factory.mktemp("readme"))
    stack.start()
    yield stack
    assert stack.stop() == 0


def commands_of(path: Path) -> list[tuple[str, str]]:
    """Return each command of a page's console blocks, its lines joined, with the output written below it."""
    steps = []
    for block in re.findall(r"^```console\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = step.splitlines()
            words = 1 + next(n for n, line in enumerate(lines) if not line.endswith("\\"))
            steps.append(("\n".join(lines[:words]), "\n".join(lines[words:]).strip()))
    return steps


def masked(text: str) -> str:
    for pattern, name in MASKED:
        text = pattern.sub(name, text)
    return text.strip()


def test_the_console_blocks_show_the_real_output(fresh: DevStack) -> None:
    ids: dict[str, str] = {}
    env = fresh.env | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    pages = [ROOT / "README.md", ROOT / "docs" / "other-languages.md"]
    steps = [step for page in pages for step in commands_of(page)]
    assert len(steps) > 8
    http = fresh.facts["http"]
    for command, written in steps:
        if command.startswith("export TEMPORAL_ADDRESS="):
            env["TEMPORAL_ADDRESS"] = fresh.facts["temporal_address"]
        elif command.startswith("export TOKEN="):
            env["TOKEN"] = Path(fresh.facts["token_file"]).read_text().strip()
        elif command == 'export PATH="$PWD/.venv/bin:$PATH"':
            pass  # `BIN` is that folder, or the one of the tests' own environment
        else:
            done = subprocess.run(
                ["bash", "-c", ID.sub(lambda found: ids.get(found[0], found[0]), command).replace(HTTP, http)],
                cwd=ROOT,
                env=env,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert masked(done.stdout) == masked(written), f"{command}\n{done.stdout}\n{done.stderr}"
            ids.update(zip(ID.findall(written), ID.findall(done.stdout), strict=True))
            until(lambda: pools_are_whole(fresh), "the pools to be whole", 60, fresh.log)


def pools_are_whole(stack: DevStack) -> bool:
    return all(row["eligible"] == row["desired"] for row in stack.status()["presets"])
