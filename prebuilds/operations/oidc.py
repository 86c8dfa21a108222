"""People who come with an identity provider's token (OpenID Connect), instead of one of `prebuilds tokens`.

The provider publishes its keys. A token is taken only if one of them has signed it, for this audience, and it has not
expired; who it is for and which groups they are in are claims in it. The provider's word is final: a token cannot be
revoked before it expires, so have the provider issue tokens that live for minutes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import jwt

from prebuilds.api import InvalidInput, StackUnreachable
from prebuilds.remote.proxies import open_http
from prebuilds.settings.oidc import OidcRules, check_address
from prebuilds.vocabulary.owners import check_person
from prebuilds.vocabulary.scopes import Scope

logger = logging.getLogger(__name__)

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures by a private key. One that is made with a shared secret, or none, is never taken."""
LEEWAY_S = 30
"""Tolerated difference between the provider's clock and this machine's."""
FETCH_TIMEOUT_S = 5.0
DOCUMENT_BYTES_MAX = 1_000_000
KEYS_LIFE_S = 3600.0
"""How long the provider's keys are used before they are read again."""
LOOK_AGAIN_S = 30.0
"""The shortest time between two readings, so that tokens with invented keys make no stream of requests."""
REQUIRED = ["exp", "iat", "iss", "aud", "sub"]


class InvalidIdentity(Exception):
    """A token is not good. The message, for operators, says why; whoever presents the token does not learn it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a good token is for."""

    name: str
    scopes: frozenset[Scope]
    expires_in: timedelta


@dataclass(frozen=True, slots=True)
class _Keys:
    by_id: dict[str | None, jwt.PyJWK]
    read_at: float
    """Time on the monotonic clock, in seconds."""


class IdentityProvider:
    """Checks the tokens of one provider. Its keys are read when the first token comes, and again when they are old."""

    def __init__(
        self,
        rules: OidcRules,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Make a provider whose keys are not read yet.

        Args:
            clock: Seconds, never going back.
            transport: How the provider is reached; None for the network.
        """
        self._rules = rules
        self._clock = clock
        self._transport = transport
        self._keys = _Keys({}, -LOOK_AGAIN_S)
        self._reading = asyncio.Lock()

    async def verify(self, token: str) -> Identity:
        """Return the identity that *token* proves.

        Raises:
            InvalidIdentity: The token is not good.
            StackUnreachable: The provider's keys cannot be read, and none of those that are known has signed it.
        """
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            key = await self._find_key(key_id if isinstance(key_id, str) else None)
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                issuer=self._rules.issuer,
                audience=self._rules.audience,
                leeway=LEEWAY_S,
                options={"require": REQUIRED},
            )
        except jwt.PyJWTError as error:
            raise InvalidIdentity(str(error)) from error
        return self._read(claims)

    def _read(self, claims: dict[str, Any]) -> Identity:
        name = claims.get(self._rules.user_claim)
        if not isinstance(name, str):
            raise InvalidIdentity(f"it has no claim {self._rules.user_claim}")
        if self._rules.user_claim == "email" and claims.get("email_verified") is not True:
            raise InvalidIdentity("its email is not verified")
        try:
            check_person(name)
        except ValueError as error:
            raise InvalidIdentity(f"its {self._rules.user_claim} {error}") from error
        groups = claims.get(self._rules.groups_claim) or []
        groups = [groups] if isinstance(groups, str) else groups
        if not isinstance(groups, list):
            raise InvalidIdentity(f"its {self._rules.groups_claim} is no list")
        scopes = self._rules.groups.scopes_of(group for group in groups if isinstance(group, str))
        return Identity(name, scopes, timedelta(seconds=claims["exp"] + LEEWAY_S - time.time()))

    async def _find_key(self, key_id: str | None) -> jwt.PyJWK:
        """Return the key of this id. An unknown id has the keys read again: the provider may have a new one."""
        keys = self._keys
        age = self._clock() - keys.read_at
        if age > KEYS_LIFE_S or (key_id not in keys.by_id and age > LOOK_AGAIN_S):
            keys = await self._read_keys(keys)
        try:
            return keys.by_id[key_id]
        except KeyError:
            raise InvalidIdentity("none of the provider's keys has signed it") from None

    async def _read_keys(self, known: _Keys) -> _Keys:
        """Read the provider's keys, once for all who wait. Where that fails, the known ones are used on."""
        async with self._reading:
            if self._keys is not known:
                return self._keys
            fetched_at = self._clock()
            try:
                by_id = await self._fetch_keys()
            except (httpx.HTTPError, ValueError, jwt.PyJWTError, InvalidInput) as error:
                logger.warning("The identity provider's keys could not be read", extra={"error": repr(error)})
                if not known.by_id:
                    raise StackUnreachable(
                        f"the keys of the identity provider {self._rules.issuer} cannot be read",
                        remedy="try again; an operator sees why in the server's log",
                    ) from error
                by_id = known.by_id
            self._keys = _Keys(by_id, fetched_at)
            return self._keys

    async def _fetch_keys(self) -> dict[str | None, jwt.PyJWK]:
        found = await self._fetch(f"{self._rules.issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != self._rules.issuer:
            raise ValueError(f"the provider calls itself {found.get('issuer')!r}")
        keys = jwt.PyJWKSet.from_dict(await self._fetch(check_address(str(found.get("jwks_uri")))))
        by_id: dict[str | None, jwt.PyJWK] = {
            key.key_id: key for key in keys.keys if key.public_key_use in (None, "sig")
        }
        if len(by_id) == 1:  # a provider with one key may leave its id out of the tokens
            by_id[None] = next(iter(by_id.values()))
        return by_id

    async def _fetch(self, address: str) -> dict[str, Any]:
        async with open_http(address, timeout=FETCH_TIMEOUT_S, transport=self._transport) as client:
            response = await client.get(address)
        response.raise_for_status()
        if len(response.content) > DOCUMENT_BYTES_MAX:
            raise ValueError(f"{address} answers with {len(response.content)} bytes")
        document = response.json()
        if not isinstance(document, dict):
            raise ValueError(f"{address} answers with no object")
        return document
