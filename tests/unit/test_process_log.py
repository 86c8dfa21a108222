"""A workspace's log stays within its bound, and its end is not lost."""

from __future__ import annotations

from pathlib import Path

from prebuilds.provisioners.process.log import read_end, trim


def test_a_log_that_grew_too_long_keeps_its_end_and_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert not trim(log, 1000)
    with log.open("ab", buffering=0) as writer:  # as the workspace's process holds it
        writer.write(b"old\n" * 1000)
        assert trim(log, 1000)
        assert log.stat().st_size == 0
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    kept = tmp_path / "log.1"
    assert (kept.stat().st_size, kept.stat().st_mode & 0o777) == (500, 0o600)
    assert read_end(log, 12) == (b"old\nold\nnew\n", True)
    assert read_end(log, 3) == (b"ew\n", True)
    assert not trim(log, 1000)
