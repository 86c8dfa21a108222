"""The tests never silently use another PostgreSQL than the requested one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import servers


@pytest.mark.parametrize(("named", "message"), [("14", "make postgres-14"), ("13", "know 14 and 18")])
def test_a_version_that_is_not_there_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str, message: str
) -> None:
    monkeypatch.setattr(servers, "PACKAGE", tmp_path)
    monkeypatch.setenv(servers.VARIABLE, named)
    with pytest.raises(pytest.UsageError, match=message):
        servers.chosen_bin_dir()


def test_the_version_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "native/bin").mkdir(parents=True)
    (tmp_path / "native/bin/postgres").touch()
    monkeypatch.setattr(servers, "PACKAGE", tmp_path)
    monkeypatch.setenv(servers.VARIABLE, "14")
    assert servers.chosen_bin_dir() == tmp_path / "native/bin"
    monkeypatch.setenv(servers.VARIABLE, "18")
    assert servers.chosen_bin_dir() is None
