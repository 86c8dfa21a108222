"""Passwords stay out of messages: what a database URL shows of itself, and URLs in other people's errors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from prebuilds.vocabulary.plain_text import escape

HIDDEN = "***"
PORT_MAX = 65535
A_PORT = f"must be a number from 1 to {PORT_MAX}; in a password write a : as %3A, a / as %2F, a ? as %3F"
SCHEMES = ("postgresql", "postgres")
SHOWN = frozenset({"host", "port", "user", "dbname", "database", "sslmode", "target_session_attrs", "application_name"})
"""Of a URL's parameters; one other than these, and none is shown."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# A quote ends a URL in a text, unless an @ comes after it: then it is a part of a password.
_OURS = re.compile(r"\bpostgres(?:ql)?(?:\+\w+)?://(?:[^\s'\"<>]|['\"<>](?=[^\s/]*@))*", re.IGNORECASE)
_ACCOUNT = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@?#]*):[^\s/@]+@", re.IGNORECASE)
_SETTING = re.compile(r"(\w*password\s*=\s*)('(?:[^'\\\n]|\\.)*'|\"[^\"\n]*\"|[^\s'\"&]+)", re.IGNORECASE)


class UnreadableUrl(ValueError):
    """Says what is wrong with a database URL, in words that have nothing of it."""


@dataclass(frozen=True, slots=True)
class _Parts:
    scheme: str
    account: str | None
    """User and password; None without an @."""
    places: str
    """Hosts and ports."""
    path: str
    query: str


def dsn_of(url: str) -> str:
    """*url* as asyncpg reads it: SQLAlchemy's form with a driver name is accepted too.

    Raises:
        UnreadableUrl: asyncpg would not read it, or as something else than was meant: a password with an @, / or # in
            it would become a part of the host, the path or nothing.
    """
    _check(_split(url))
    scheme, separator, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}{separator}{rest}"


def hide_password(url: str) -> str:
    """*url* for people: without its password, and without all that may be a part of one."""
    try:
        parts = _split(url)
        if parts.query != HIDDEN:  # as this function has left it before
            _check(parts, any_scheme=True)
    except UnreadableUrl:
        return f"postgresql://{HIDDEN}" if _OURS.match(url) else HIDDEN
    if "@" in parts.query and ":" in (parts.account or parts.places):
        return f"{parts.scheme}://{HIDDEN}"  # what looks like a host may be the beginning of a password
    user, colon, _ = (parts.account or "").partition(":")
    account = f"{user}:{HIDDEN}@" if colon else f"{user}@" if parts.account is not None else ""
    return escape(f"{parts.scheme}://{account}{parts.places}{parts.path}{_shown(parts.query)}")


def mask(text: str) -> str:
    """*text* of whatever origin with the passwords in URLs and in `password=...` hidden."""
    if "://" in text:
        text = _ACCOUNT.sub(rf"\1:{HIDDEN}@", _OURS.sub(lambda url: hide_password(url[0]), text))
    return _SETTING.sub(rf"\1{HIDDEN}", text) if "=" in text else text


def _split(url: str) -> _Parts:
    """Raises:
    UnreadableUrl: It is no URL.
    """
    if not _SCHEME.match(url):
        raise UnreadableUrl("it must be a URL such as postgresql://user@host:5432/database")
    if any(character in url for character in "\t\r\n"):
        raise UnreadableUrl("it has a line break or a tab in it")
    try:
        found = urlsplit(url)
    except ValueError:  # brackets that do not fit; its message may quote them
        raise UnreadableUrl("its host is not readable") from None
    account, at, places = found.netloc.rpartition("@")
    if "@" in account or "@" in found.path or "@" in found.fragment:
        raise UnreadableUrl("it has an @ too many; write one in a name or password as %40, a / as %2F, a # as %23")
    return _Parts(found.scheme, account if at else None, places, found.path, found.query)


def _check(parts: _Parts, *, any_scheme: bool = False) -> None:
    """Raises:
    UnreadableUrl: asyncpg does not read it.
    """
    if not any_scheme and parts.scheme.partition("+")[0] not in SCHEMES:
        raise UnreadableUrl("it must begin with postgresql://")
    places = parts.places.split(",")
    if len(places) > 1 and "" in places:
        raise UnreadableUrl("one of its hosts is empty")
    for place in places:
        _, bracket, port = place.partition("]")
        if place.startswith("[") and not bracket:
            raise UnreadableUrl("its host is not readable")
        _, _, number = (port if place.startswith("[") else place).partition(":")
        if number and not _is_port(unquote(number)):
            raise UnreadableUrl(f"its port {A_PORT}")
    try:
        pairs = parse_qsl(parts.query, strict_parsing=bool(parts.query), keep_blank_values=False)
    except ValueError:
        raise UnreadableUrl("its parameters are not readable") from None
    for key, value in pairs:
        if key == "port" and not all(_is_port(port) for port in value.split(",")):
            raise UnreadableUrl(f"its port {A_PORT}")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text[:6]) <= PORT_MAX


def _pairs(query: str) -> list[tuple[str, str]]:
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return [(key, value) for key, _, value in pairs]


def _shown(query: str) -> str:
    if not query:
        return ""
    return f"?{query}" if all(key in SHOWN for key, _ in _pairs(query)) else f"?{HIDDEN}"
