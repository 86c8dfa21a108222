"""Delivers notifications to operators: always as a log line, and to a webhook if one is set. It runs in every control
worker, beside the relay."""

from __future__ import annotations

import asyncio
import json
import logging
import time

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput
from prebuilds.planning.notifying import judge_delivery
from prebuilds.settings.webhook_secrets import Signer
from prebuilds.store.notifications import (
    BATCH_MAX,
    CANARY_FAILED,
    DRILL_FAILED,
    Notification,
    forget_unsendable,
    give_up,
    mark_sent,
    put_off,
    take_due,
)
from prebuilds.telemetry.metrics import METRICS

logger = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)
"""At INFO, httpx logs the address of each request, and a webhook's address often contains a secret."""

SWEEP_INTERVAL_S = 2.0
FORGET_INTERVAL_S = 600.0
SEND_TIMEOUT_S = 5.0


class Notifier:
    """Delivers the notifications that are due."""

    def __init__(self, engine: AsyncEngine, webhook_url: str | None, signer: Signer | None = None) -> None:
        self._engine = engine
        self._url = webhook_url
        self._signer = signer or Signer()
        self._notifiers = ["log"]
        if webhook_url is not None:
            self._notifiers.append("webhook")
            import httpx  # noqa: F401 - its import takes a tenth of a second: only for a webhook, and before a delivery

    async def run(self) -> None:
        """Deliver notifications until cancelled. A failed sweep is logged and repeated."""
        clock = asyncio.get_running_loop().time
        next_forget = 0.0
        while True:
            tried = 0
            try:
                tried = await self.sweep()
                if clock() >= next_forget:
                    await forget_unsendable(self._engine, self._notifiers)
                    next_forget = clock() + FORGET_INTERVAL_S
            except Exception as error:
                logger.warning("A sweep of notifications failed; it is tried again", extra={"error": repr(error)})
            if tried < BATCH_MAX:
                await asyncio.sleep(SWEEP_INTERVAL_S)

    async def sweep(self) -> int:
        """Deliver one batch of due notifications; return how many were tried."""
        due = await take_due(self._engine, self._notifiers)
        # If an outcome cannot be recorded, its notification is sent again later; the others go on.
        for failure in await asyncio.gather(*[self._deliver(one) for one in due], return_exceptions=True):
            if isinstance(failure, Exception):
                logger.warning("The outcome of a notification could not be recorded", extra={"error": repr(failure)})
        return len(due)

    async def _deliver(self, notification: Notification) -> None:
        if notification.notifier == "log":
            _log(notification)
            await mark_sent(self._engine, notification)
            count_outcome(notification)
            return
        status, error = await self._post(notification)
        verdict = judge_delivery(status, notification.attempts, notification.age)
        if verdict.outcome == "sent":
            await mark_sent(self._engine, notification)
        elif verdict.outcome == "later":
            await put_off(self._engine, notification, verdict.wait, error)
        elif await give_up(self._engine, notification, error):
            logger.error(
                "A notification is given up",
                extra={
                    "notification_id": str(notification.id),
                    "notifier": notification.notifier,
                    "attempts": notification.attempts,
                    "error": error,
                },
            )

    async def _post(self, notification: Notification) -> tuple[int | None, str]:
        """Post a notification to the webhook.

        Returns:
            The receiver's HTTP status, None when it did not answer; and a description of the outcome without the
            address.
        """
        import httpx

        from prebuilds.remote.proxies import open_http

        webhook_id, body = str(notification.id), json.dumps(notification.body).encode()
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": webhook_id,
            "Prebuilds-Event": notification.kind,
            **self._signer.headers(webhook_id, int(time.time()), body),
        }
        try:
            async with (
                asyncio.timeout(SEND_TIMEOUT_S),
                open_http(self._url or "", timeout=SEND_TIMEOUT_S) as http,
                http.stream("POST", self._url or "", content=body, headers=headers) as response,
            ):
                return response.status_code, f"HTTP {response.status_code}"
        except TimeoutError:
            return None, f"no answer within {SEND_TIMEOUT_S:g} s"
        except (httpx.HTTPError, OSError, InvalidInput) as error:
            return None, f"no answer ({type(error).__name__})"


LOGGED_AS = {
    "resources_replaced": (logging.WARNING, "A claim has replaced resources"),
    CANARY_FAILED: (logging.WARNING, "A canary has failed, and the version before is active again"),
    DRILL_FAILED: (logging.WARNING, "A drill has failed"),
    "rollout_failed": (logging.WARNING, "A rollout has failed, and the old version stays"),
    "rollout_undone": (logging.WARNING, "A rollout was undone, and the version before is active again"),
    "rollout_superseded": (logging.INFO, "A rollout was ended before it was done"),
    "rollout_succeeded": (logging.INFO, "A rollout has succeeded"),
    "canary_passed": (logging.INFO, "A canary has passed, and its version goes on to all"),
    "canary_ended": (logging.INFO, "A canary was ended without a verdict, and its version goes on to all"),
    "lease_ending": (logging.INFO, "A workspace is released when its lease ends, unless the lease is renewed"),
}
"""Kind of a notification -> level and text of its line in the log."""
SHOWN_APART = ("kind", "id", "organization", "template", "preset", "workspace_name", "at")
"""Fields of the body that the log line has under other names."""


def count_outcome(notification: Notification) -> None:
    """Count an outcome of a rollout or a canary when its line is logged: a command may cause an outcome, but exports no
    metrics."""
    subject, _, outcome = notification.kind.partition("_")
    count = {"rollout": METRICS.count_rollout, "canary": METRICS.count_canary}.get(subject)
    if count is not None:
        body = notification.body
        count({"organization_name": body["organization"], "template_name": body["template"]}, outcome)


def _log(notification: Notification) -> None:
    body = notification.body
    level, line = LOGGED_AS.get(notification.kind, (logging.WARNING, "A notification"))
    logger.log(
        level,
        line,
        extra={
            "notification_id": str(notification.id),
            "preset": "/".join(body[key] or "-" for key in ("organization", "template", "preset")),
            **{key: value for key, value in body.items() if key not in SHOWN_APART},
        },
    )
