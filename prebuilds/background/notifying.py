"""Telling operators, beside the relay in every control worker: a log line always, a webhook where one is set."""

from __future__ import annotations

import asyncio
import logging

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.notifying import judge_delivery
from prebuilds.store.notifications import (
    BATCH_MAX,
    Notification,
    forget_old,
    give_up,
    mark_sent,
    put_off,
    take_due,
)

logger = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)
"""At INFO it logs each request's address, and a webhook's often has a secret in it."""

SWEEP_INTERVAL_S = 2.0
FORGET_INTERVAL_S = 600.0
SEND_TIMEOUT_S = 5.0


class Notifier:
    def __init__(self, engine: AsyncEngine, webhook_url: str | None) -> None:
        self._engine = engine
        self._url = webhook_url
        self._notifiers = ["log"] if webhook_url is None else ["log", "webhook"]

    async def run(self) -> None:
        """Tell what is due until cancelled. A failed sweep is logged and repeated."""
        clock = asyncio.get_running_loop().time
        next_forget = 0.0
        while True:
            told = 0
            try:
                told = await self.sweep()
                if clock() >= next_forget:
                    await forget_old(self._engine, self._notifiers)
                    next_forget = clock() + FORGET_INTERVAL_S
            except Exception as error:
                logger.warning("Notifications could not be looked at", extra={"error": repr(error)})
            if told < BATCH_MAX:
                await asyncio.sleep(SWEEP_INTERVAL_S)

    async def sweep(self) -> int:
        """Tell one batch of what is due. Returns how many were tried."""
        due = await take_due(self._engine, self._notifiers)
        # One that cannot be marked is told again after its lease; it must not cut the others.
        for failure in await asyncio.gather(*[self._tell(one) for one in due], return_exceptions=True):
            if isinstance(failure, Exception):
                logger.warning("A notification could not be marked", extra={"error": repr(failure)})
        return len(due)

    async def _tell(self, one: Notification) -> None:
        if one.notifier == "log":
            _log(one)
            await mark_sent(self._engine, one)
            return
        status, error = await self._post(one)
        verdict = judge_delivery(status, one.attempts, one.age)
        if verdict.outcome == "sent":
            await mark_sent(self._engine, one)
        elif verdict.outcome == "later":
            await put_off(self._engine, one, verdict.wait, error)
        elif await give_up(self._engine, one, error):
            facts = {"notification_id": str(one.id), "notifier": one.notifier, "attempts": one.attempts, "error": error}
            logger.error("A notification is given up", extra=facts)

    async def _post(self, one: Notification) -> tuple[int | None, str]:
        """The receiver's status, None when it did not answer; and what to say of it, without the address."""
        headers = {"Idempotency-Key": str(one.id), "Prebuilds-Event": one.kind}
        try:
            async with (
                asyncio.timeout(SEND_TIMEOUT_S),
                httpx.AsyncClient(timeout=SEND_TIMEOUT_S) as http,
                http.stream("POST", self._url or "", json=one.body, headers=headers) as response,
            ):
                return response.status_code, f"HTTP {response.status_code}"
        except TimeoutError:
            return None, f"no answer within {SEND_TIMEOUT_S:g} s"
        except (httpx.HTTPError, OSError) as error:
            return None, f"no answer ({type(error).__name__})"


def _log(one: Notification) -> None:
    body = one.body
    logger.warning(
        "A claim has replaced resources",
        extra={
            "notification_id": str(one.id),
            "preset": "/".join(body[key] or "-" for key in ("organization", "template", "preset")),
            "workspace_id": body["workspace_id"],
            "workspace_owner": body["workspace_owner"],
            "claim_id": body["claim_id"],
            "build_id": body["build_id"],
            "replacements": body["replacements"],
        },
    )
