"""Asks a server: one request at a time, sent again while its answer is lost or the server is not there."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar
from urllib.request import getproxies

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from prebuilds.api import ERRORS, InvalidInput, RequestFailed, StackUnreachable
from prebuilds.remote.address import URL_VARIABLE, ServerAddress, configured_url, read_address
from prebuilds.remote.problems import SET_URL, error_of_answer, read_problem, without_token
from prebuilds.remote.proxies import open_http
from prebuilds.remote.routes import HEALTH, Route
from prebuilds.vocabulary.error import PrebuildsError
from prebuilds.vocabulary.traceparent import current_traceparent

T = TypeVar("T")

PATIENCE_S = 10.0
"""How long a request is sent again after its first failure, in seconds. A server that is replaced is back by then."""
CONNECT_S = 5.0
FIRST_PAUSE_S, PAUSE_MAX_S = 0.1, 2.0
"""The pauses between attempts: each is twice the one before, up to the second number. A random half of each is left
out, so that callers who lost the same server do not come back at the same moment."""
IDLE_S = 3.0
"""How long an unused connection is kept. The server closes it after five seconds, and a request must not meet that."""
SILENCE_S = 45.0
"""How long a stream may be silent before its connection is taken for lost. The server says something each 15 s."""
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
"""Failures before the server has got anything."""
START_SERVER = "start `prebuilds serve` there, or set PREBUILDS_URL to a running server's address"
PASSING = frozenset({429, 502, 503, 504})
"""Statuses that asking again may change."""


class Transport:
    """The connections to one server. They belong to one event loop; `close` ends them.

    Redirects are not followed: they could lead the token to another host. Proxies and certificates are taken from the
    environment (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`).
    """

    def __init__(self, server: ServerAddress, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """Make a transport to one server.

        Args:
            transport: What carries the requests; None for the network.
        Raises:
            InvalidInput: The environment's proxy cannot be used.
        """
        self.server = server
        headers = {"User-Agent": "prebuilds", "Accept": "application/json"}
        if server.token is not None:
            headers["Authorization"] = f"Bearer {server.token}"
        self._http = open_http(
            server.url,
            headers=headers,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=IDLE_S),
            transport=transport,
            verify=_certificates(server.url),
        )

    def __repr__(self) -> str:
        return f"<Transport to {self.server.url}>"

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def check(self) -> None:
        """Check that a Prebuilds server is there.

        Raises:
            StackUnreachable: Nothing answers, or something else than Prebuilds does.
        """
        try:
            answer = await self.send(HEALTH, within_s=0)
            is_ours = answer.json().get("status") in ("ok", "draining")
        except (RequestFailed, ValueError, AttributeError):
            is_ours = False
        if not is_ours:
            raise StackUnreachable(f"no Prebuilds server is at {self.server.url}", remedy=SET_URL)

    async def ask(self, route: Route, answer: type[T], **arguments: Any) -> T:
        """Send a request, and return its answer as a record.

        Args:
            answer: The record's type. Fields that this release does not know, of a newer server, are left out.
            arguments: By the route's names. None leaves one out.
        Raises:
            PrebuildsError: The error that the operation raised on the server.
            StackUnreachable: The server, or what stands behind it, does not answer.
        """
        return self.read(await self.send(route, arguments), answer)

    def read(self, response: httpx.Response, answer: type[T]) -> T:
        """Read an answer as a record.

        Raises:
            RequestFailed: It is none.
        """
        try:
            value = response.json()
        except ValueError:
            value = None
        return self.check_answer(value, answer)

    def check_answer(self, value: Any, answer: type[T]) -> T:
        """Make JSON values of an answer a record.

        Raises:
            RequestFailed: They are none.
        """
        try:
            if issubclass(answer, BaseModel):
                return answer.model_validate(value, extra="ignore")
            return TypeAdapter(answer).validate_python(value, extra="ignore")
        except ValidationError as error:
            raise RequestFailed(
                f"the server at {self.server.url} answers what this release cannot read",
                remedy=f"have the older of the two upgraded, or {SET_URL}",
            ) from error

    async def send(
        self,
        route: Route,
        arguments: Mapping[str, Any] | None = None,
        *,
        content: str | None = None,
        headers: Mapping[str, str] | None = None,
        within_s: float = PATIENCE_S,
        going_on: Callable[[], bool] = lambda: True,
    ) -> httpx.Response:
        """Send a request until it is answered, and return the answer, which is a success.

        Args:
            content: A JSON document to send in place of the arguments of the body.
            within_s: For how long to send it again, in seconds from now.
            going_on: Asked before each further attempt; False ends them.
        Raises:
            PrebuildsError, StackUnreachable: As `ask`.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + within_s
        request = self._request(route, arguments or {}, content, headers or {})
        for pause_s in _pauses():
            failure, again_s = await self._attempt(route, request)
            if isinstance(failure, httpx.Response):
                return failure
            if again_s is None or clock() + (wait_s := max(pause_s, again_s)) >= deadline:
                raise failure
            await asyncio.sleep(wait_s)
            if not going_on():
                raise failure
        raise AssertionError("the pauses never end")

    @asynccontextmanager
    async def stream(
        self, route: Route, arguments: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """Open an answer that is read as it comes. It is not sent again.

        Raises:
            httpx.RequestError: The server is not there, or the connection is lost.
            PrebuildsError: As `ask`.
        """
        request = self._request(route, arguments, None, headers, silence_s=SILENCE_S)
        response = await self._http.send(request, stream=True)
        try:
            if not response.is_success:
                await response.aread()
                raise self._error_of(response)
            yield response
        finally:
            await response.aclose()

    def unreached(self, error: httpx.RequestError) -> StackUnreachable:
        """Make the error of a server that is not there."""
        reason = str(error) or type(error).__name__
        return StackUnreachable(f"cannot reach the server at {self.server.url} ({reason})", remedy=START_SERVER)

    async def _attempt(
        self, route: Route, request: httpx.Request
    ) -> tuple[httpx.Response | PrebuildsError, float | None]:
        """Send a request once.

        Returns:
            The answer, or its error. With an error, the seconds after which asking again may help; None: it cannot.
        """
        try:
            response = await self._http.send(request)
        except httpx.RequestError as error:
            failure = self.unreached(error)
            failure.__cause__ = error
            return failure, 0.0 if route.repeats or isinstance(error, UNSENT) else None
        if response.is_success:
            return response, None
        return self._error_of(response), _again_after(response)

    def _request(
        self,
        route: Route,
        arguments: Mapping[str, Any],
        content: str | None,
        headers: Mapping[str, str],
        silence_s: float | None = None,
    ) -> httpx.Request:
        given = {name: _as_json(value) for name, value in arguments.items() if value is not None}
        body: dict[str, Any] | None = {name: given[name] for name in route.body if name in given} or None
        if content is not None:
            headers = {**headers, "Content-Type": "application/json"}
        if (traceparent := current_traceparent()) is not None:
            headers = {**headers, "traceparent": traceparent}
        return self._http.build_request(
            route.method,
            self.server.url + route.address(arguments),
            params={name: given[name] for name in route.query if name in given},
            json=body if content is None else None,
            content=content,
            headers=headers,
            timeout=httpx.Timeout(silence_s or route.answer_s, connect=CONNECT_S, pool=None),
        )

    def _error_of(self, response: httpx.Response) -> PrebuildsError:
        problem = _problem_of(response)
        error = error_of_answer(self.server.url, response.status_code, response.reason_phrase, problem)
        return without_token(error) if self.server.token is None else error


async def open_transport(url: str | None = None, token: str | None = None, *, name: str = URL_VARIABLE) -> Transport:
    """Connect to a server.

    Args:
        url: None for PREBUILDS_URL.
        token: None for PREBUILDS_TOKEN.
        name: What the caller calls the address, for messages.
    Raises:
        InvalidInput: The address or the token has a wrong form.
        StackUnreachable: No Prebuilds server answers there.
    """
    server = read_address(url or configured_url() or "", token, name=name)
    try:
        _ = httpx.URL(server.url).host  # read as it will be when it is asked
    except (httpx.InvalidURL, UnicodeError) as error:
        raise InvalidInput.field(name, "must be a URL with a valid host") from error
    transport = Transport(server)
    try:
        await transport.check()
    except BaseException:
        await transport.close()
        raise
    return transport


def _certificates(url: str) -> ssl.SSLContext | bool:
    """Return what checks the certificates of servers.

    Returns:
        True for those of the environment, or else httpx's. Reading them takes a tenth of a command's time, so a plain
        connection gets a context that trusts nobody.
    """
    if url.startswith("https:") or getproxies():
        return True
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _problem_of(response: httpx.Response) -> Mapping[str, Any] | None:
    return read_problem(response.headers.get("Content-Type", ""), response.content)


def _again_after(response: httpx.Response) -> float | None:
    """The seconds after which asking again may get another answer; None when the answer is an answer."""
    if response.status_code not in PASSING:
        return None
    code = (_problem_of(response) or {}).get("code")
    retry_after = response.headers.get("Retry-After", "")
    again_s = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
    if code in ERRORS and code != "RateLimited":
        if response.status_code == 429:
            return None  # a miss: the claim has its answer
        if again_s is None or code == "ProvisionerUnavailable":
            return None  # only a person can change it
    return again_s or 0.0


def _pauses() -> Iterator[float]:
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        pause_s = min(pause_s * 2, PAUSE_MAX_S)


def _as_json(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    return value.isoformat() if isinstance(value, datetime) else value
