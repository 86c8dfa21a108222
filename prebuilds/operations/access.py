"""The gate in front of the operations: who presents a token, and whether the policy lets them.

A server has one `Gate`. `authenticate` makes a token an actor, `check` holds the actor to the policy. Neither waits for
anything that is only recorded: last uses and refusals are written in the background.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import DatabaseRestored, Forbidden, Unauthenticated
from prebuilds.failures.database import is_lost, store_unavailable
from prebuilds.operations.oidc import IdentityProvider, InvalidIdentity
from prebuilds.planning import policy
from prebuilds.planning.policy import DEPLOYMENT, Action, Resource
from prebuilds.store.events import record_event
from prebuilds.store.tokens import FoundToken, find_token, note_use
from prebuilds.store.users import find_login
from prebuilds.vocabulary.actors import Actor
from prebuilds.vocabulary.tokens import TokenProof, read_token

logger = logging.getLogger(__name__)

CACHE_S = 5.0
"""How long an answer about a token is used again, in seconds. A revocation takes effect everywhere within this time;
without it, each claim would read the token's row first."""
CACHED_MAX = 10_000
"""Presented tokens remembered per process; bad ones apart, so that who guesses neither fills the memory nor has good
ones forgotten."""
STRANGERS_READ_MAX = 4
"""Statements at a time about tokens that were not good a moment ago: who guesses leaves connections to others."""
USE_WRITTEN_EVERY_S = 60.0
REFUSAL_WRITTEN_EVERY_S = 60.0
"""The shortest time between two events about one token and one action, so that a loop of refusals fills no table."""
IDENTITY_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
"""The form of a signed JSON Web Token."""
REFUSED = "the request has no good token: it is missing, unknown, expired or revoked"


@dataclass(slots=True)
class _Answer:
    """What was found out about a presented token."""

    actor: Actor | None
    """None: it is refused."""
    good_until: float
    """Time on the gate's clock, in seconds."""
    why: str = "unknown"
    """Why it is refused, for the event."""
    token_name: str | None = None
    """None unless the secret matched."""


MALFORMED = _Answer(None, 0.0, "missing or malformed")
_Presented: TypeAlias = TokenProof | bytes
"""What was presented: a token of ours, or the SHA-256 of an identity provider's."""


@dataclass(slots=True)
class _Refusals:
    """The refusals of one token and action since the last event about them."""

    written_at: float
    repeats: int = 0


class Gate:
    """Makes presented tokens actors and holds these to the policy, for one server process."""

    def __init__(
        self,
        engine: AsyncEngine,
        clock: Callable[[], float] = time.monotonic,
        provider: IdentityProvider | None = None,
    ) -> None:
        """Make a gate that knows no token yet.

        Args:
            clock: Seconds, never going back.
            provider: Whose tokens are taken, too; None for nobody's.
        """
        self._engine = engine
        self._clock = clock
        self._provider = provider
        self._answers: dict[_Presented, _Answer] = {}
        self._bad: dict[_Presented, _Answer] = {}
        self._strangers = asyncio.Semaphore(STRANGERS_READ_MAX)
        self._reading: dict[_Presented, asyncio.Task[_Answer]] = {}
        self._used: dict[UUID, float] = {}
        """When the last use of each token was written."""
        self._refusals: dict[tuple[UUID | None, str], _Refusals] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def authenticate(self, token: str | None) -> Actor:
        """The actor whose token this is, with the token's scopes.

        An actor of a user's token has the user's name; of another one `token/NAME`, which no user can have.

        Args:
            token: As presented, without `Bearer`; None when the request had none.
        Raises:
            Unauthenticated: The token is missing, unknown, expired, revoked, or its user is disabled. Which of these is
                told to operators by an event, and not to the holder.
            DatabaseRestored: The database may have forgotten revocations; an operator has to look first.
            StoreUnavailable: The database is away.
        """
        proof = None if token is None else read_token(token)
        if proof is not None:
            answer = await self._find(proof, partial(self._ask, proof))
        elif token is not None and self._provider is not None and IDENTITY_TOKEN.fullmatch(token):
            digest = hashlib.sha256(token.encode()).digest()
            answer = await self._find(digest, partial(self._ask_provider, self._provider, token))
        else:
            answer = MALFORMED
        if answer.actor is None:
            known = answer.token_name is not None
            actor, data = f"token/{answer.token_name}" if known else "unknown", {"why": answer.why}
            token_id = proof.id if known and proof is not None else None
            self._note_refusal(token_id, "authenticate", "token_refused", actor, data)
            raise Unauthenticated(REFUSED)
        if proof is not None:
            self._note_use(proof.id)
        return answer.actor

    def check(self, actor: Actor, action: Action, resource: Resource = DEPLOYMENT) -> None:
        """Refuse what the policy denies.

        Raises:
            Forbidden: Names the scope that would be enough. It is an event, too.
        """
        try:
            policy.check(actor, action, resource)
        except Forbidden as error:
            data = {"action": action.word, "scope": error.details["scope"], "token_id": actor.token_id}
            self._note_refusal(actor.token_id, action.word, "access_refused", actor.name, data)
            raise

    async def drain(self) -> None:
        """Wait until all that is recorded in the background is written."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    # --- Reading ---

    async def _find(self, presented: _Presented, ask: Callable[[], Coroutine[Any, Any, _Answer]]) -> _Answer:
        """Return what is known of a token. It is asked for once for all who wait for the same token; a caller that
        leaves ends nobody else's wait."""
        answer = self._answers.get(presented) or self._bad.get(presented)
        if answer is not None and answer.good_until > self._clock():
            return answer
        task = self._reading.get(presented)
        if task is None:
            task = self._reading[presented] = asyncio.create_task(ask())
            task.add_done_callback(lambda done: self._keep(presented, done))
        return await asyncio.shield(task)

    async def _ask(self, proof: TokenProof) -> _Answer:
        read_at = self._clock()  # before the statement, so that no answer is used longer than it may be
        try:
            # A late joiner gets an answer read before their request, so bound how old it may be.
            async with asyncio.timeout(CACHE_S), nullcontext() if proof in self._answers else self._strangers:
                found = await find_token(self._engine, proof.id)
        except Exception as error:
            if is_lost(error):
                raise store_unavailable(error) from error
            raise
        return _judge(proof, found, read_at)

    async def _ask_provider(self, provider: IdentityProvider, token: str) -> _Answer:
        read_at = self._clock()
        good_until = read_at + CACHE_S
        try:
            identity = await provider.verify(token)
        except InvalidIdentity as error:
            return _Answer(None, good_until, f"not the identity provider's: {error}")
        try:
            async with asyncio.timeout(CACHE_S):
                login = await find_login(self._engine, identity.name)
        except Exception as error:
            if is_lost(error):
                raise store_unavailable(error) from error
            raise
        if login.restore_found:
            raise _restore_found()
        if login.disabled:
            return _Answer(None, good_until, "user_disabled")
        good_until = min(good_until, read_at + identity.expires_in.total_seconds())
        return _Answer(Actor(login.name, identity.scopes, login.name), good_until)

    def _keep(self, proof: _Presented, done: asyncio.Task[_Answer]) -> None:
        self._reading.pop(proof, None)
        if done.cancelled() or done.exception() is not None:
            return  # all who wait for it get the error, and the next caller reads again
        answer = done.result()
        for answers in (self._answers, self._bad):
            answers.pop(proof, None)
        kept = self._bad if answer.actor is None else self._answers
        kept[proof] = answer
        _forget_oldest(kept)

    # --- Recording ---

    def _note_use(self, token_id: UUID) -> None:
        now = self._clock()
        written = self._used.get(token_id)
        if written is not None and now - written < USE_WRITTEN_EVERY_S:
            return
        self._used.pop(token_id, None)
        self._used[token_id] = now
        _forget_oldest(self._used)
        self._spawn(note_use(self._engine, token_id))

    def _note_refusal(self, token_id: UUID | None, action: str, kind: str, actor: str, data: dict[str, Any]) -> None:
        now = self._clock()
        before = self._refusals.get((token_id, action))
        if before is not None and now - before.written_at < REFUSAL_WRITTEN_EVERY_S:
            before.repeats += 1
            return
        more = 0 if before is None else before.repeats
        self._refusals.pop((token_id, action), None)
        self._refusals[token_id, action] = _Refusals(now)
        _forget_oldest(self._refusals)
        self._spawn(self._record(kind, actor, data | {"repeats": more}))

    async def _record(self, kind: str, actor: str, data: dict[str, Any]) -> None:
        async with self._engine.begin() as connection:
            await record_event(connection, kind, actor, data=data)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        async def carefully() -> None:
            try:
                await work
            except Exception as error:
                logger.warning("A token's use or refusal was not recorded", extra={"error": repr(error)})

        task = asyncio.create_task(carefully())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _judge(proof: TokenProof, found: FoundToken | None, read_at: float) -> _Answer:
    """Return the answer for a caller who presents *proof*.

    Raises:
        DatabaseRestored: See `Gate.authenticate`. It is not remembered, so that it ends with the restore's answer.
    """
    good_until = read_at + CACHE_S
    # An unknown id is compared, too, so that the time tells nobody which ids exist.
    if not proof.matches(found.digest if found is not None else bytes(32)) or found is None:
        return _Answer(None, good_until)
    if found.restore_found:
        raise _restore_found()
    if found.state != "good":
        return _Answer(None, good_until, found.state, found.name)
    if found.expires_in is not None:
        good_until = min(good_until, read_at + found.expires_in.total_seconds())
    name = found.user or f"token/{found.name}"
    return _Answer(Actor(name, found.scopes, found.user, proof.id), good_until, token_name=found.name)


def _restore_found() -> DatabaseRestored:
    return DatabaseRestored(
        "the database was restored and may not know which tokens were revoked, so none is taken",
        remedy="have an operator run `prebuilds restored`, then `prebuilds tokens confirm`",
    )


def _forget_oldest(remembered: dict[Any, Any]) -> None:
    if len(remembered) > CACHED_MAX:
        del remembered[next(iter(remembered))]
