"""No message has the password of a database URL in any form, and an ambiguous URL is refused."""

from __future__ import annotations

import asyncio
import re
from inspect import signature
from typing import Any
from urllib.parse import quote, urlparse, urlsplit

import pytest
from asyncpg import connect_utils
from hypothesis import example, given
from hypothesis import strategies as st

from prebuilds.api import StackUnreachable
from prebuilds.cli import run
from prebuilds.doctor import examine
from prebuilds.settings import Settings
from prebuilds.store.engine import check_reachable, create_engine
from prebuilds.telemetry.logs import indent_trace
from prebuilds.vocabulary.passwords import UnreadableUrl, dsn_of, hide_password, mask

NOWHERE = "127.0.0.1:1"
SECRET = "hunter22"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:hunter22@h:5433/db", "postgresql://u:***@h:5433/db"),
        ("postgresql+asyncpg://u:hunter22@h/db", "postgresql+asyncpg://u:***@h/db"),
        ("postgres://u:hunter22@a:1,[::1]:2,c/db?sslmode=require", "postgres://u:***@a:1,[::1]:2,c/db?sslmode=require"),
        ("postgresql://u:hunt%40er22%2F@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u@h/db", "postgresql://u@h/db"),
        ("postgresql://:hunter22@h/db", "postgresql://:***@h/db"),
        ("postgresql://u@h/db?password=hunter22", "postgresql://u@h/db?***"),
        ("postgresql://u@h/db?password=hunter22&sslmode=require", "postgresql://u@h/db?***"),
        ("postgresql://u@h/db?password=hunt@er22", "postgresql://u@h/db?***"),
        ("postgresql://h:5432/db?user=u&password=hunt@er22", "postgresql://***"),
        ("postgresql://h/db?sslpassword=hunter22", "postgresql://h/db?***"),
        ("postgresql:///db?host=/run/pg&user=u", "postgresql:///db?host=/run/pg&user=u"),
        ("postgresql://u:hunt@er22@h/db", "postgresql://***"),
        ("postgresql://u:hunt/er22@h/db", "postgresql://***"),
        ("postgresql://u:hunt#er22@h/db", "postgresql://***"),
        ("postgresql://u:hunt?er22@h/db", "postgresql://***"),
        ("postgresql://u:1234?x=er22@h/db", "postgresql://***"),
        ("postgresql://u:hunter22", "postgresql://***"),
        ("mysql://u:hunter22@h/db", "mysql://u:***@h/db"),
        ("postgresql:u:hunter22@h/db", "***"),
        ("u:hunter22@h/db", "***"),
        ("host=h user=u password=hunter22", "***"),
        ("hunter22", "***"),
        ("postgresql://u:hunter\n22@h/db", "postgresql://***"),
        ("postgresql://u\x9b2J:hunter22@h/db", "postgresql://u\\x9b2J:***@h/db"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert hide_password(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunt@er22@h/db",
        "postgresql://u:hunt/er22@h/db",
        "postgresql://u:hunt#er22@h/db",
        "postgresql://u:hunt?er22@h/db",
        "postgresql://u:hunter22",
        "postgresql://u:p@h:hunter22/db",
        "postgresql://u:hunter22@h:99999/db",
        "postgresql://u:hunter22@[::1/db",
        "postgresql://u:hunter22@::1]/db",
        "postgresql://u:hunter22@[here]/db",
        "postgresql://u:hunter22@a,[::1]x,b/db",
        "postgresql://u:[hunter22]@h/db",
        "postgresql://u:hunter22@a,,b/db",
        "postgresql://u@h/db?password=hunter22&er22",
        "postgresql://u@h/db?port=hunter22",
        "postgresql://u@h/db?pool_mode=hunter22",
        "mysql://u:hunter22@h/db",
        "postgresql:u:hunter22@h/db",
        "host=h user=u password=hunter22",
        "",
    ],
)
async def test_an_ambiguous_url_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(UnreadableUrl) as unreadable:
        dsn_of(url)
    with pytest.raises(StackUnreachable, match="PREBUILDS_DATABASE_PASSWORD_FILE") as refused:
        await check_reachable(url)
    for part in ("hunt", "er22"):
        assert part not in f"{unreadable.value} {refused.value}"
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p%40@a:1,[::1]:2,c/db", [("a", 1), ("::1", 2), ("c", 5432)]),
        ("postgres://u:p%40@[::1],c:3/db?sslmode=disable&port=7", [("::1", 5432), ("c", 3)]),
        ("postgresql+asyncpg://u:p%40@[::1]:2,[fe80::1%25eth0]/db?host=x", [("::1", 2), ("fe80::1%eth0", 5432)]),
        ("postgresql://u:p%40@[::1]:2/db", [("::1", 2)]),
        ("postgresql://u:p%40@a,b:2/db", [("a", 5432), ("b", 2)]),
    ],
)
def test_each_host_is_read_by_every_release_of_python(
    monkeypatch: pytest.MonkeyPatch, url: str, hosts: list[tuple[str, int]]
) -> None:
    def as_strictest(text: str, *words: Any, **named: Any) -> Any:
        before, bracket, after = urlsplit(text, *words, **named).netloc.rpartition("@")[2].partition("[")
        if bracket and (before or not re.fullmatch(r"[^\]]*\](:.*)?", after)):
            raise ValueError("Invalid IPv6 URL")  # as Python 3.14 and Debian's 3.11.2 do
        return urlparse(text, *words, **named)

    monkeypatch.setattr("urllib.parse.urlparse", as_strictest)
    monkeypatch.delenv("PGPORT", raising=False)
    read = connect_utils._parse_connect_dsn_and_args  # type: ignore[attr-defined]
    found, parameters = read(**{**dict.fromkeys(signature(read).parameters), "dsn": dsn_of(url)})
    assert found == hosts
    assert (parameters.user, parameters.password, parameters.database) == ("u", "p@", "db")


PASSWORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=4, max_size=20)
FORMS = [
    "postgresql://u:{}@" + NOWHERE + "/db",
    "postgresql+asyncpg://u:{}@" + NOWHERE + "," + NOWHERE + "/db",
    "postgresql://" + NOWHERE + "/db?user=u&password={}",
    "postgresql://u@" + NOWHERE + "/db?password={}",
]
RAW_FORMS = [*FORMS, "mysql://u:{}@" + NOWHERE + "/db", "postgresql:u:{}@h/db", "host=h password={}", "u:{}@h/db", "{}"]


async def _failure_of(url: str) -> str:
    try:
        await check_reachable(url)
    except StackUnreachable as error:
        return f"{error} {indent_trace(str(error.__cause__))}"
    raise AssertionError("nothing listens there")


@pytest.mark.parametrize("form", FORMS)
@given(password=PASSWORDS)
@example(password="call")
async def test_a_connection_failure_message_does_not_depend_on_the_password(form: str, password: str) -> None:
    message = await _failure_of(form.format(quote(password, safe="")))
    assert message == await _failure_of(form.format("x"))


@pytest.mark.parametrize("form", RAW_FORMS)
@given(password=PASSWORDS)
async def test_a_literal_password_is_always_masked(form: str, password: str) -> None:
    marked = f"Zq{password}qZ"  # else it may be a word of the message by chance
    message = await _failure_of(form.format(marked))
    assert marked not in message
    assert hide_password(form.format(marked)).find(marked) == -1


@pytest.mark.parametrize(
    "url", ["mysql://u:hunter22@h/db", "postgresql://u:hunter22@127.0.0.1:1/db", "password=hunter22"]
)
async def test_doctor_and_commands_never_print_the_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    settings = Settings(database_url=url)
    assert SECRET not in repr(settings)
    database = next(check for check in (await examine(settings)).checks if check.name == "database")
    assert not database.ok
    assert SECRET not in database.model_dump_json()
    monkeypatch.setenv("PREBUILDS_DATABASE_URL", url)
    assert await asyncio.to_thread(run, ["status"]) == 3
    shown: Any = capsys.readouterr()
    assert SECRET not in shown.out + shown.err
    assert "PREBUILDS_DATABASE_URL" in shown.err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see http://127.0.0.1:8080/x?y=a@b", "see http://127.0.0.1:8080/x?y=a@b"),
        ("proxy http://me:hunter22@proxy:1/", "proxy http://me:***@proxy:1/"),
        ("at postgresql://u:hunter22@h/db?password=hunter22 now", "at postgresql://u:***@h/db?*** now"),
        ("host=h password='hunter22 x' user=u", "host=h password=*** user=u"),
        ("PGPASSWORD=hunter22", "PGPASSWORD=***"),
        ("at 'postgresql://u:hunt'er22@h/db' now", "at 'postgresql://u:***@h/db' now"),
        ("at 'postgresql://u@h/db', 'x@y'", "at 'postgresql://u@h/db', 'x@y'"),
        (r"password='hunt\'er22 x' user=u", "password=*** user=u"),
        ("password authentication failed", "password authentication failed"),
    ],
)
def test_other_peoples_messages_are_masked(text: str, shown: str) -> None:
    assert mask(text) == shown
    assert mask(shown) == shown


async def test_an_error_of_a_statement_has_none_of_its_values() -> None:
    engine = create_engine("postgresql://h/db")
    assert engine.sync_engine.hide_parameters
    await engine.dispose()
