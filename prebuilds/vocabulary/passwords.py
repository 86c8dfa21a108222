"""Keeps passwords out of messages: reads database URLs, and hides passwords in them and in other people's errors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import parse_qsl, unquote, urlsplit

from prebuilds.vocabulary.plain_text import escape

HIDDEN = "***"
PORT_MAX = 65535
PORT_RULE = f"must be a number from 1 to {PORT_MAX}; in a password write a : as %3A, a / as %2F, a ? as %3F"
SCHEMES = ("postgresql", "postgres")
SHOWN_PARAMETERS = frozenset(
    {"host", "port", "user", "dbname", "database", "sslmode", "target_session_attrs", "application_name", "pool_mode"}
)
"""Parameters of a URL that messages may show. A URL that has any other parameter is shown without parameters."""

LIBPQ_ONLY = frozenset(
    {
        "channel_binding",
        "connect_timeout",
        "fallback_application_name",
        "gssdelegation",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "requirepeer",
        "sslcertmode",
        "sslcompression",
        "sslsni",
        "tcp_user_timeout",
    }
)
"""Parameters by which libpq, the C library, makes a connection. Hosted services print them in their URLs. asyncpg does
not know them, and would ask the server to set them. They are left out; `require_auth` is not, since a connection
without it may be less safe than the URL demands."""

POOL_MODE = "pool_mode"
"""The parameter that says how a PgBouncer between here and the server pools. It is ours: asyncpg does not get it."""
POOL_MODES = ("session", "transaction")

_URL = re.compile(r"([a-z][a-z0-9+.-]*://)([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
"""Scheme, the part that has hosts, and the rest."""
_BRACKETS = str.maketrans("[]", "__")
_IPV6 = re.compile(r"\[([^\[\]]+)\](?::[^\[\]]*)?")
# A quote ends a URL in a text, unless an @ follows before the next space or slash: then it is part of a password.
_OURS = re.compile(r"\bpostgres(?:ql)?(?:\+\w+)?://(?:[^\s'\"<>]|['\"<>](?=[^\s/]*@))*", re.IGNORECASE)
_ACCOUNT = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@?#]*):[^\s/@]+@", re.IGNORECASE)
_SETTING = re.compile(r"(\w*password\s*=\s*)('(?:[^'\\\n]|\\.)*'|\"[^\"\n]*\"|[^\s'\"&]+)", re.IGNORECASE)


class UnreadableUrl(ValueError):
    """A database URL cannot be read. The message says what is wrong without quoting any part of the URL."""


@dataclass(frozen=True, slots=True)
class _Parts:
    scheme: str
    account: str | None
    """User and password; None when the URL has no @."""
    places: str
    """Hosts and ports, separated by commas."""
    path: str
    query: str


def dsn_of(url: str) -> str:
    """Return *url* in the form that asyncpg reads. SQLAlchemy's form, which has a driver name, is accepted too.

    Raises:
        UnreadableUrl: asyncpg cannot read it, or would misread it: the part of a password after an @, / or # would be
            taken for the host, for the path, or for nothing.
    """
    parts = _split(url)
    _check(parts)
    scheme, separator, rest = url.partition("://")
    before = rest.partition("?")[0]
    left_out = LIBPQ_ONLY | {POOL_MODE}
    added: list[str] = []
    if "[" in parts.places and "," in parts.places:
        # asyncpg reads URLs by Python's `urlsplit`, some releases of which refuse several hosts with an IPv6 address
        # among them. As a parameter, the list is read by asyncpg alone. Parameters that it would override are left out.
        before = f"{before.partition(parts.places)[0]}{parts.path}"
        added = [f"host={parts.places.replace('+', '%2B').replace('&', '%26')}"]
        left_out |= {"host", "port"}
    kept = [pair for pair in parts.query.split("&") if pair and pair.partition("=")[0] not in left_out]
    query = f"?{'&'.join([*added, *kept])}" if added or kept else ""
    return f"{scheme.partition('+')[0]}{separator}{before}{query}"


def pools_transactions(url: str) -> bool:
    """Return whether *url* says, by `pool_mode=transaction`, that each transaction may meet another session.

    Raises:
        UnreadableUrl: As `dsn_of`.
    """
    parts = _split(url)
    _check(parts)
    return dict(_split_query(parts.query)).get(POOL_MODE) == "transaction"


def hide_password(url: str) -> str:
    """Return *url* for people: without its password, and without anything that may be part of a password."""
    try:
        parts = _split(url)
        if parts.query != HIDDEN:  # a URL that has been through this function before
            _check(parts, any_scheme=True)
    except UnreadableUrl:
        return f"postgresql://{HIDDEN}" if _OURS.match(url) else HIDDEN
    if "@" in parts.query and ":" in (parts.account or parts.places):
        return f"{parts.scheme}://{HIDDEN}"  # the part that looks like a host may be the beginning of a password
    user, colon, _ = (parts.account or "").partition(":")
    account = f"{user}:{HIDDEN}@" if colon else f"{user}@" if parts.account is not None else ""
    return escape(f"{parts.scheme}://{account}{parts.places}{parts.path}{_show_query(parts.query)}")


def mask(text: str) -> str:
    """Return *text*, from any origin, with the passwords in URLs and in `password=...` hidden."""
    if "://" in text:
        text = _ACCOUNT.sub(rf"\1:{HIDDEN}@", _OURS.sub(lambda url: hide_password(url[0]), text))
    return _SETTING.sub(rf"\1{HIDDEN}", text) if "=" in text else text


def _split(url: str) -> _Parts:
    """Split a URL into its parts.

    Raises:
        UnreadableUrl: The text is not a URL.
    """
    matched = _URL.match(url)
    if matched is None:
        raise UnreadableUrl("it must be a URL such as postgresql://user@host:5432/database")
    if any(character in url for character in "\t\r\n"):
        raise UnreadableUrl("it contains a line break or a tab")
    scheme, netloc, rest = matched.groups()
    try:  # without brackets: releases of Python, 3.11.2 of Debian among them, differ in which ones they accept
        found = urlsplit(f"{scheme}{netloc.translate(_BRACKETS)}{rest}")
    except ValueError:  # characters that look like a delimiter; the error is not chained, since it may quote the URL
        raise UnreadableUrl("its host cannot be read") from None
    account, at, places = netloc.rpartition("@")
    if "[" in account or "]" in account:
        raise UnreadableUrl("in a name or password write a [ as %5B and a ] as %5D")
    if "@" in account or "@" in found.path or "@" in found.fragment:
        raise UnreadableUrl("it has one @ too many; in a name or password write an @ as %40, a / as %2F, a # as %23")
    return _Parts(found.scheme, account if at else None, places, found.path, found.query)


def _check(parts: _Parts, *, any_scheme: bool = False) -> None:
    """Check what asyncpg would refuse or misread.

    Raises:
        UnreadableUrl: asyncpg cannot read it.
    """
    if not any_scheme and parts.scheme.partition("+")[0] not in SCHEMES:
        raise UnreadableUrl("it must begin with postgresql://")
    places = parts.places.split(",")
    if len(places) > 1 and "" in places:
        raise UnreadableUrl("one of its hosts is empty")
    for place in places:
        if ("[" in place or "]" in place) and not _is_ipv6(place):
            raise UnreadableUrl("its host cannot be read; an IPv6 address is written as [::1] or [::1]:5432")
        _, _, number = place.rpartition("]")[2].partition(":")
        if number and not _is_port(unquote(number)):
            raise UnreadableUrl(f"its port {PORT_RULE}")
    try:
        pairs = parse_qsl(parts.query, strict_parsing=bool(parts.query), keep_blank_values=False)
    except ValueError:
        raise UnreadableUrl("its parameters cannot be read") from None
    for key, value in pairs:
        if key == "port" and not all(_is_port(port) for port in value.split(",")):
            raise UnreadableUrl(f"its port {PORT_RULE}")
        if key == POOL_MODE and value not in POOL_MODES:
            raise UnreadableUrl(f"its {POOL_MODE} must be {' or '.join(POOL_MODES)}")


def _is_ipv6(place: str) -> bool:
    """Return whether *place* is an IPv6 address in brackets, with or without a port."""
    matched = _IPV6.fullmatch(place)
    try:
        return matched is not None and bool(IPv6Address(unquote(matched[1])))
    except ValueError:
        return False


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text[:6]) <= PORT_MAX


def _split_query(query: str) -> list[tuple[str, str]]:
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return [(key, value) for key, _, value in pairs]


def _show_query(query: str) -> str:
    if not query:
        return ""
    return f"?{query}" if all(key in SHOWN_PARAMETERS | LIBPQ_ONLY for key, _ in _split_query(query)) else f"?{HIDDEN}"
