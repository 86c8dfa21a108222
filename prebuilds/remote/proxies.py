"""Opens HTTP clients that use the environment's proxies.

httpx reads `NO_PROXY` itself, but takes its entries for URLs: one such as `fd00::/8`, which clusters set, raises.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from prebuilds.api import InvalidInput

REMEDY = "name it as http://host:port, https://host:port or socks5://host:port, or list the server's host in NO_PROXY"


def open_http(
    url: str,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    verify: Any = True,
    limits: httpx.Limits | None = None,
    **options: Any,
) -> httpx.AsyncClient:
    """Open a client for the server at *url*, through the environment's proxy for it.

    Args:
        url: The server's address. The client must not be used for another host.
        transport: What carries the requests; None for the network.
        verify: As httpx takes it, like *limits* and *options*.
    Raises:
        InvalidInput: The proxy's address cannot be used. The message names the variable, without its value.
    """
    if transport is None:
        scheme, proxy = _find_proxy(url)
        try:
            transport = httpx.AsyncHTTPTransport(verify=verify, limits=limits or httpx.Limits(), proxy=proxy)
        except (ValueError, httpx.InvalidURL) as error:
            raise InvalidInput.field(f"{scheme.upper()}_PROXY", "is not the address of a proxy", REMEDY) from error
    return httpx.AsyncClient(transport=transport, **options)


def _find_proxy(url: str) -> tuple[str, str | None]:
    """Return what the proxy is for, and its address; None when the server is reached without one."""
    parts, proxies = urlsplit(url), getproxies()
    scheme = parts.scheme if parts.scheme in proxies else "all"
    proxy = proxies.get(scheme)
    if not proxy or _is_excluded(parts.hostname or "", parts.netloc.rpartition("@")[2], proxies):
        return scheme, None
    return scheme, proxy if "://" in proxy else f"http://{proxy}"


def _is_excluded(host: str, place: str, proxies: dict[str, str]) -> bool:
    """Whether `NO_PROXY` lists the host: by its name, a domain, with its port, by its address, or by a network."""
    if proxy_bypass(place):
        return True
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        for entry in proxies.get("no", "").split(","):
            with suppress(ValueError):
                if address in ipaddress.ip_network(entry.strip().strip("[]"), strict=False):
                    return True
    return False
