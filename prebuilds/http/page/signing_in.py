"""Signing in: a bearer token in a cookie that no script reads.

The cookie has the token itself, so that a revocation ends it and no server has to remember who is signed in. Source:
docs/decisions/0028.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.responses import Response

from prebuilds.api import Forbidden, Unauthenticated
from prebuilds.http.authentication import Entrance
from prebuilds.planning import policy
from prebuilds.planning.policy import DEPLOYMENT, Action, Resource
from prebuilds.planning.rate_limit import REQUESTS, headers, refusal
from prebuilds.vocabulary.actors import Actor

SIGNED_IN_S = 12 * 3600
"""How long a browser keeps the cookie, in seconds: a working day."""


class SignedOut(Exception):
    """The request has no good cookie. The page then shows the form to sign in, with the reason."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """The person who looks at the page."""

    actor: Actor
    token: str

    @property
    def key(self) -> tuple[object, ...]:
        """Two viewers of the same key are shown the same."""
        return self.actor.name, self.actor.user, self.actor.scopes

    def may(self, action: Action, organization: str | None = None, people: tuple[str, ...] = ()) -> bool:
        """Whether the page offers an action, to the whole deployment unless an organization is named."""
        return policy.may(self.actor, action, Resource(organization, people) if organization else DEPLOYMENT)

    def sees(self, organization: str) -> bool:
        """Whether this organization's pools are shown."""
        return self.may(Action.SEE_STATUS, organization)


def cookie_name(request: Request) -> str:
    """The cookie's name. Browsers give a host's cookies to all of its ports, so the name has the port in it."""
    return f"prebuilds_{request.url.port or request.url.scheme}"


def keep_token(request: Request, response: Response, token: str) -> None:
    """Have the browser keep the token, where no script and no other site's request reaches it."""
    secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
    response.set_cookie(
        cookie_name(request), token, max_age=SIGNED_IN_S, secure=secure, httponly=True, samesite="strict", path="/"
    )


def forget_token(request: Request, response: Response) -> None:
    """Have the browser forget the token."""
    response.delete_cookie(cookie_name(request), httponly=True, samesite="strict", path="/")


async def authenticate(request: Request, token: str | None) -> Viewer:
    """Return who presents a token.

    Raises:
        SignedOut: The token is missing or not good.
        RateLimited: The token asks too often.
    """
    entrance: Entrance = request.app.state.entrance
    if not token:
        raise SignedOut(None)
    try:
        actor = await entrance.gate.authenticate(token)
    except Unauthenticated as error:
        raise SignedOut("the token is not good: it is unknown, expired or revoked") from error
    taken = entrance.limits.take(actor, REQUESTS)
    request.state.headers = headers(taken)
    if not taken.allowed:
        raise refusal(taken)
    return Viewer(actor, token)


async def _viewer(request: Request) -> Viewer:
    return await authenticate(request, request.cookies.get(cookie_name(request)))


SignedIn = Annotated[Viewer, Depends(_viewer)]
"""The person who looks at the page; without a valid cookie the page shows the form to sign in."""


def check_same_origin(request: Request) -> None:
    """Refuse a form that another site's page has sent, in case a browser adds the cookie to it.

    Browsers say where a request comes from in `Sec-Fetch-Site`, older ones in `Origin`. A request that says neither is
    refused, too. Another port of the same host is another origin.

    Raises:
        Forbidden: The form does not come from this server's own page.
    """
    site = request.headers.get("sec-fetch-site")
    origin = urlsplit(request.headers.get("origin", ""))
    own = site == "same-origin" if site is not None else origin.netloc == request.headers.get("host", "-")
    if not own:
        raise Forbidden("the form was not sent by this page", remedy="open the page itself, and send it from there")
