"""Notifications: recorded with the replacement, sent at least once under one id, by one sender at a time."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import HttpUrl, SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.background.notifying import Notifier
from prebuilds.doctor.examination import Examination
from prebuilds.payloads import Replacement
from prebuilds.settings import Settings
from prebuilds.settings.webhook_secrets import parse_webhook_secrets
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool
from prebuilds.store.notifications import count_failing, forget_unsendable, take_due
from prebuilds.store.replacements import record_replacements
from prebuilds.vocabulary import build_id_of
from tests.builders import make_preset
from tests.postgres.pool_steps import claim, make_ready
from tests.postgres.retention_steps import remove_old
from tests.receiver import Receiver
from tests.rows import do, events, one

VM = Replacement(resource="vm.main", paths=["image"])
DISK = Replacement(resource="disk.home", paths=["owner", "tags.name"])


@pytest.fixture
async def workspace(engine: AsyncEngine, database_url: str) -> UUID:
    """A workspace that alice has claimed, whose claim has replaced something."""
    preset = await make_preset(engine)
    [workspace_id] = await make_ready(engine, preset, 1)
    async with await create_claim_pool(database_url, size=2) as pool:
        await claim(ClaimStore(pool, enabled=True), preset, "the-claim", name="dev")
    await record_replacements(engine, workspace_id, build_id_of(workspace_id, 2), [VM, DISK])
    return workspace_id


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


async def make_due(engine: AsyncEngine) -> None:
    await do(engine, "UPDATE notifications SET due_at = now() WHERE status = 'due'")


async def webhook(engine: AsyncEngine) -> Any:
    return await one(
        engine,
        "SELECT status, attempts, error, extract(epoch FROM due_at - now())::float AS due_in, count(*) OVER () "
        "FROM notifications WHERE notifier = 'webhook'",
    )


async def reached(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_a_replacement_is_sent_once_to_each_notifier(
    engine: AsyncEngine, workspace: UUID, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    build_id = build_id_of(workspace, 2)
    await record_replacements(engine, workspace, build_id, [VM, DISK])  # an attempt that comes again
    notifier = Notifier(engine, receiver.url)
    with caplog.at_level(logging.INFO):
        assert await notifier.sweep() == 2
        assert await notifier.sweep() == 0
    [body], [headers] = receiver.bodies, receiver.headers
    at = body.pop("at")
    assert body == {
        "kind": "resources_replaced",
        "id": headers["Idempotency-Key"],
        "organization": "acme",
        "template": "python",
        "preset": "small",
        "workspace_id": str(workspace),
        "workspace_name": "dev",
        "workspace_owner": "alice",
        "claim_id": "the-claim",
        "build_id": str(build_id),
        "replacements": [VM.model_dump(), DISK.model_dump()],
    }
    assert at.endswith("Z")
    assert headers["Prebuilds-Event"] == "resources_replaced"
    [line] = [record for record in caplog.records if record.message == "A claim has replaced resources"]
    assert (line.levelname, line.__dict__["preset"]) == ("WARNING", "acme/python/small")
    assert "hunter2" not in caplog.text, "a webhook's address is a secret"
    assert (await webhook(engine)).status == "sent"


async def test_a_webhook_is_signed_as_the_documentation_verifies_it(
    engine: AsyncEngine, workspace: UUID, receiver: Receiver
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    [snippet] = re.findall(r"```python\n(import base64, hashlib.*?)```", page, re.DOTALL)
    bodies: dict[str, Any] = {}
    exec(snippet, bodies)  # noqa: S102 - our own page
    is_ours = bodies["is_ours"]
    old, new, wrong = (f"whsec_{base64.b64encode(os.urandom(32)).decode()}" for _ in range(3))
    signer = parse_webhook_secrets(f"{new}, {old}")
    assert new not in repr(signer)

    await Notifier(engine, receiver.url, signer).sweep()
    [body], [headers] = receiver.raw, [{name.lower(): value for name, value in receiver.headers[0].items()}]
    assert headers["webhook-id"] == receiver.bodies[0]["id"], "a repeat is recognised by it"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert is_ours(headers, body, new)
    assert is_ours(headers, body, old), "a receiver changes its secret at its own time"
    assert not is_ours(headers, body, wrong)
    assert not is_ours(headers, body + b" ", new)
    assert not is_ours(headers | {"webhook-id": "another"}, body, new)
    assert not is_ours(headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}, body, new)
    long_ago = signer.headers(headers["webhook-id"], int(time.time()) - 301, body)
    assert not is_ours(long_ago, body, new), "a replay is too old"
    assert is_ours(long_ago, body, new, tolerance_s=400)


async def test_without_a_secret_a_webhook_has_no_signature(
    engine: AsyncEngine, workspace: UUID, receiver: Receiver
) -> None:
    await Notifier(engine, receiver.url).sweep()
    names = {name.lower() for name in receiver.headers[0]}
    assert {"webhook-id", "webhook-timestamp"} <= names
    assert "webhook-signature" not in names
    for secret, hint in ((None, True), (SecretStr(f"whsec_{base64.b64encode(bytes(32)).decode()}"), False)):
        examination = Examination(Settings(webhook_url=HttpUrl(receiver.url), webhook_secret=secret))
        await examination.settings()
        examination.engine = engine
        assert ("PREBUILDS_WEBHOOK_SECRET is not set" in await examination.notifications()) is hint


async def test_a_receiver_that_is_not_well_or_away_is_tried_again(engine: AsyncEngine, workspace: UUID) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with Receiver(503) as receiver:
        await Notifier(engine, f"http://127.0.0.1:{port}/").sweep()
        row = await webhook(engine)
        assert (row.status, row.attempts, row.error) == ("due", 1, "no answer (ConnectError)")
        assert 3 < row.due_in <= 5
        notifier = Notifier(engine, receiver.url)
        assert await notifier.sweep() == 0, "not before its time"
        await make_due(engine)
        await notifier.sweep()
        row = await webhook(engine)
        assert (row.status, row.attempts, row.error) == ("due", 2, "HTTP 503")
        assert 8 < row.due_in <= 10
        assert (await count_failing(engine)).failing == 1
        await make_due(engine)
        await notifier.sweep()
        assert (await webhook(engine)).status == "sent"
        assert (await count_failing(engine)).failing == 0
        assert len({body["id"] for body in receiver.bodies}) == 1
        assert len(receiver.bodies) == 2


async def test_a_refused_one_is_given_up_with_an_event(engine: AsyncEngine, workspace: UUID) -> None:
    with Receiver(400) as receiver:
        notifier = Notifier(engine, receiver.url)
        await notifier.sweep()
        await make_due(engine)
        assert await notifier.sweep() == 0
        assert len(receiver.bodies) == 1
        [(_, data)] = await events(engine, "notification_given_up")
        assert data == {"notifier": "webhook", "id": receiver.bodies[0]["id"], "attempts": 1, "error": "HTTP 400"}
    assert (await webhook(engine)).status == "given_up"
    failing = await count_failing(engine)
    assert (failing.failing, failing.given_up, failing.error) == (0, 1, "HTTP 400")


async def test_after_a_day_of_failures_it_is_given_up(engine: AsyncEngine, workspace: UUID) -> None:
    with Receiver(503, 503) as receiver:
        await Notifier(engine, receiver.url).sweep()
        await do(engine, "UPDATE notifications SET created_at = now() - interval '24 hours'")
        await make_due(engine)
        await Notifier(engine, receiver.url).sweep()
    assert (await webhook(engine)).status == "given_up"


async def test_two_workers_at_once_send_one(engine: AsyncEngine, workspace: UUID, receiver: Receiver) -> None:
    receiver.answering.clear()
    first = asyncio.create_task(Notifier(engine, receiver.url).sweep())
    await reached(lambda: len(receiver.bodies) == 1)
    assert await Notifier(engine, receiver.url).sweep() == 0, "the first one still waits for its answer"
    receiver.answering.set()
    await first
    assert sum(await asyncio.gather(*[Notifier(engine, receiver.url).sweep() for _ in range(4)])) == 0
    assert len(receiver.bodies) == 1


async def test_a_worker_killed_before_it_marked_one_sends_it_again(
    engine: AsyncEngine, workspace: UUID, receiver: Receiver
) -> None:
    receiver.answering.clear()
    killed = asyncio.create_task(Notifier(engine, receiver.url).sweep())
    await reached(lambda: len(receiver.bodies) == 1)
    killed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killed
    receiver.answering.set()
    notifier = Notifier(engine, receiver.url)
    assert await notifier.sweep() == 0, "its lease holds"
    assert (await webhook(engine)).due_in > 20
    await do(engine, "UPDATE notifications SET due_at = due_at - interval '30 seconds' WHERE status = 'due'")
    await notifier.sweep()
    first, second = receiver.bodies
    assert first == second
    assert (await webhook(engine)).status == "sent"


async def test_a_frozen_sender_takes_nothing_from_the_one_after_it(engine: AsyncEngine, workspace: UUID) -> None:
    from prebuilds.store.notifications import give_up, put_off

    [frozen] = await take_due(engine, ["webhook"])
    await make_due(engine)
    await take_due(engine, ["webhook"])
    await put_off(engine, frozen, timedelta(hours=1), "late")
    assert not await give_up(engine, frozen, "late")
    row = await webhook(engine)
    assert (row.status, row.attempts, row.error) == ("due", 2, None)


async def test_only_the_log_is_notified_without_a_webhook(engine: AsyncEngine, workspace: UUID) -> None:
    assert await Notifier(engine, None).sweep() == 1
    assert (await webhook(engine)).status == "due"
    assert await forget_unsendable(engine, ["log"]) == 0
    await do(engine, "UPDATE notifications SET created_at = now() - interval '25 hours'")
    assert await forget_unsendable(engine, ["log", "webhook"]) == 0
    assert await forget_unsendable(engine, ["log"]) == 1
    await do(engine, "UPDATE notifications SET ended_at = now() - interval '15 days'")
    assert await remove_old(engine, "notifications") == {"notifications": 1}


async def test_a_notification_and_its_replacement_commit_together(engine: AsyncEngine, workspace: UUID) -> None:
    from prebuilds.store.replacements import add_replacements

    other = Replacement(resource="net.one", paths=["owner"])
    async with engine.connect() as connection:
        await add_replacements(connection, workspace, build_id_of(workspace, 2), [other])
        await connection.rollback()
    count = "SELECT count(*) FROM notifications"
    assert (await one(engine, count)).count == 2
    await record_replacements(engine, workspace, build_id_of(workspace, 2), [other, VM])
    assert (await one(engine, count)).count == 4
    bodies = [n.body["replacements"] for n in await take_due(engine, ["log"])]
    assert sorted(body[0]["resource"] for body in bodies) == ["net.one", "vm.main"], (
        "only new replacements are notified"
    )
