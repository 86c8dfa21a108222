"""The environment: misspelt variables are reported, and faults are described in plain words."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from prebuilds import settings
from prebuilds.api import InvalidInput
from prebuilds.settings import check_names, database_url, load_settings
from prebuilds.temporal.stack_file import read_stack_file


def test_an_empty_state_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREBUILDS_STATE_DIR", "")
    with pytest.raises(InvalidInput, match="PREBUILDS_STATE_DIR: is empty; name a folder"):
        load_settings()


@pytest.mark.parametrize("folder", ["9" * 300, "loop"])
def test_a_state_folder_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv("PREBUILDS_STATE_DIR", str(tmp_path / folder))
    monkeypatch.delenv("PREBUILDS_DATABASE_URL", raising=False)
    with pytest.raises(InvalidInput, match="PREBUILDS_STATE_DIR: cannot be read"):
        database_url(load_settings())


@pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b"{", b"[]"])
def test_a_stack_file_that_says_nothing_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stack.json").write_bytes(content)
    assert read_stack_file(tmp_path) == {}


def test_an_unknown_variable_is_logged_once_with_a_suggestion(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settings, "_warned_variables", set())
    given = {
        **{"PREBUILDS_DATABSE_URL": "x", "PREBUILDS_COLOUR": "red", "PATH": "/"},
        **{"PREBUILDS_URL": "x", "PREBUILDS_PARAM_SIZE": "x", "PREBUILDS_OWNER": "alice"},
    }
    with caplog.at_level(logging.WARNING):
        check_names(given)
        check_names(given)
    assert [record.message for record in caplog.records] == [
        "PREBUILDS_COLOUR is not a variable of Prebuilds; it has no effect",
        "PREBUILDS_DATABSE_URL is not a variable of Prebuilds; did you mean PREBUILDS_DATABASE_URL?",
    ]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("WEBHOOK_URL", "ftp://host", "must begin with http:// or https://"),
        ("WEBHOOK_URL", "host", "must be an address such as https://host/path"),
        ("WEBHOOK_SECRET", "hunter2", "must be secrets of 24 to 64 bytes, each whsec_ and base64"),
        ("MAX_PENDING_BUILDS", "many", "must be a whole number"),
        ("MAX_PENDING_BUILDS", "0", "must be greater than or equal to 1"),
        ("ENABLED", "perhaps", "must be true or false"),
        ("DEPLOYMENT", "mine", "must be an id such as"),
        ("ORPHANS", "keep", "must be 'remove' or 'report'"),
    ],
)
def test_a_wrong_value_is_refused_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"PREBUILDS_{name}", value)
    with pytest.raises(InvalidInput) as refused:
        load_settings()
    assert f"PREBUILDS_{name}: {message}" in str(refused.value)
