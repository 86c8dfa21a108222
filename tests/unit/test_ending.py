"""A signal ends every command as Ctrl-C does, because all commands run their work the same way."""

from __future__ import annotations

from pathlib import Path

import pytest

from prebuilds import cli


@pytest.mark.parametrize("path", sorted(Path(cli.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_a_command_runs_its_work_to_be_ended_by_signals(path: Path) -> None:
    runs = path.read_text().count("asyncio.run(")
    assert runs == (path.stem == "ending"), "use prebuilds.cli.ending.run_command"
