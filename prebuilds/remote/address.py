"""The address of a Prebuilds server, and the token for it."""

from __future__ import annotations

import ipaddress
import logging
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from prebuilds.api import InvalidInput
from prebuilds.temporal.stack_file import TOKEN_VARIABLE, bearer_token, state_dir
from prebuilds.vocabulary.plain_text import escape

logger = logging.getLogger(__name__)

URL_VARIABLE = "PREBUILDS_URL"
SCHEMES = ("http", "https")

_warned_addresses: set[str] = set()
"""Addresses for which this process has warned that the token can be read on the way."""


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server is, and the token to present to it."""

    url: str
    """Scheme, host, port, and the path that a reverse proxy puts in front; without a slash at the end."""
    token: str | None = field(default=None, repr=False)
    """None sends none: the server then answers little more than that it wants one."""


def names_server(address: str | None) -> bool:
    """Return whether *address* is one of an HTTP server, not of Temporal."""
    return address is not None and address.strip().lower().startswith(tuple(f"{scheme}:" for scheme in SCHEMES))


def configured_url() -> str | None:
    """Return what PREBUILDS_URL says; None when it is unset or empty."""
    return os.environ.get(URL_VARIABLE, "").strip() or None


def read_address(url: str, token: str | None = None, *, name: str = URL_VARIABLE) -> ServerAddress:
    """Check a server's address, and find the token for it.

    Args:
        url: Such as `https://prebuilds.example.com`, with a path where a reverse proxy serves it under one.
        token: None for PREBUILDS_TOKEN, or else the token of the `prebuilds dev` that has this address.
        name: What the caller calls the address, for messages.
    Raises:
        InvalidInput: The address or the token has a wrong form. No message repeats either: both may have secrets.
    """
    base = _check_url(url.strip(), name)
    found = bearer_token(state_dir(), base) if token is None else token.strip()
    if found and not all("!" <= char <= "~" for char in found):
        field = TOKEN_VARIABLE if token is None else "token"
        raise InvalidInput.field(field, "must be printable ASCII without spaces", "give the token as it was made")
    if found:
        _warn_of_readable_token(base)
    return ServerAddress(base, found or None)


def _check_url(url: str, name: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is no number, or too large
    except ValueError as error:
        raise InvalidInput.field(name, "must be a URL, such as https://prebuilds.example.com") from error
    if parts.scheme.lower() not in SCHEMES or not parts.hostname:
        raise InvalidInput.field(name, "must be a URL that begins http:// or https://, with a host")
    if "@" in parts.netloc:
        raise InvalidInput.field(name, "must have no user and no password", f"give the token as {TOKEN_VARIABLE}")
    if parts.query or parts.fragment:
        raise InvalidInput.field(name, "must end with its path, without ? and #", "leave out what follows the path")
    return f"{parts.scheme.lower()}://{parts.netloc}{parts.path.rstrip('/')}"


def _warn_of_readable_token(url: str) -> None:
    """Say once for each address that the token travels without encryption."""
    parts = urlsplit(url)
    if parts.scheme == "https" or url in _warned_addresses or is_loopback(parts.hostname or ""):
        return
    _warned_addresses.add(url)
    logger.warning("The token travels readable to %s: use https", escape(url))


def is_loopback(host: str) -> bool:
    """Return whether *host* is this machine itself, so that nobody on a network sees what is sent to it."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
