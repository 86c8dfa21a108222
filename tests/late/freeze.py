"""Claims whose worker freezes between taking a task and sending its statement, and goes on when all are answered.

Two claims workers, and one of them freezes with claims in the air: its process by SIGSTOP, or its link to the database
by a stall. The other one answers. Then the pools are filled again and the frozen one goes on: no caller with a refusal
may be given a workspace by what it sends then, and nobody may have another one than they were told.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import WorkflowFailureError

from prebuilds.api import PrebuildsError, StackUnreachable, StoreUnavailable
from prebuilds.bench.filling import Pools
from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimRequest, ClaimsRequest
from prebuilds.stack import Stack
from prebuilds.stack.preparing import set_up
from prebuilds.store.engine import create_engine
from prebuilds.temporal.connecting import connect, described
from prebuilds.vocabulary import claim_workflow_id
from tests.late.link import Link

FAULTS = ("sigstop", "stall")
FORMS = ("fail", "wait", "create", "wait-create", "batch", "embedded")
READY = 5
"""Prebuilds of each form's pool, fewer than are claimed."""
CLAIMS = {"fail": 24, "wait": 16, "create": 12, "wait-create": 10, "batch": 6, "embedded": 12}
TERMS: dict[str, dict[str, Any]] = {
    "wait": {"on_empty": "wait", "wait_timeout_seconds": 4},
    "create": {"on_empty": "create"},
    "wait-create": {"on_empty": "wait", "wait_timeout_seconds": 4, "on_timeout": "create"},
}
FREEZE_AFTER_S = (0.05, 0.3)
RETRIES_MAX = 40
ANSWERED_S = 240.0
QUIET_S = 2.0
"""So long no statement of a claim runs, before the late ones count as done."""
CLAIMED = text("SELECT id, workspace_id::text FROM claims WHERE id LIKE :prefix || '%' AND workspace_id IS NOT NULL")
BUSY = text("""
    SELECT count(*) FROM pg_stat_activity WHERE application_name = 'prebuilds-claims' AND state <> 'idle'
""")


@dataclass
class Seen:
    """The observations of one round."""

    answers: dict[str, str] = field(default_factory=dict)
    """By claim id, a batch's members each: the workspace that was given, or the error that the run ended with."""
    caught: int = 0
    """Claims whose task timed out at the frozen worker."""
    unknown: int = 0
    """Answers that the outcome is not known; the claim was asked for again."""
    wrong: list[str] = field(default_factory=list)

    def counts(self) -> Counter[str]:
        return Counter("given" if "-" in answer else answer for answer in self.answers.values())


class Deployment:
    def __init__(self, stack: Stack, engine: AsyncEngine, client: PrebuildsClient, link: Link) -> None:
        self.stack, self.engine, self.client, self.link = stack, engine, client, link
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.drains: list[asyncio.Task[None]] = []

    async def round(self, number: int, fault: str, rng: random.Random) -> Seen:
        """Claim in all forms concurrently, in one freeze."""
        prefix, seen = f"{fault}-{number}-", Seen()
        pools = Pools(presets=len(FORMS))
        await pools.fill(self.engine, ready=READY)
        claiming = asyncio.gather(*self._claims(pools, prefix, seen))
        await asyncio.sleep(rng.uniform(*FREEZE_AFTER_S))  # not a wait for a state: the test varies the moment
        # A stalled service would wait for its own answers, which a frozen worker does not.
        frozen = [self.processes[name].pid for name in ("claims", "service")] if fault == "sigstop" else []
        self.link.stall() if fault == "stall" else None
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(ANSWERED_S):
                await claiming
            await self._read_answers(prefix, seen) if fault == "sigstop" else None
            await pools.fill_up(self.engine, READY * 2)
        finally:
            self.link.go_on()
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        await self._read_service(seen)
        await self._until_quiet()
        await self._check(prefix, seen)
        return seen

    def _claims(self, pools: Pools, prefix: str, seen: Seen) -> list[Awaitable[None]]:
        works: list[Awaitable[None]] = []
        for form, path in zip(FORMS, pools.paths, strict=True):
            for n in range(CLAIMS[form]):
                claim_id, terms = f"{prefix}{form}-{n}", {"preset": path, "owner": pools.organization}
                if form == "batch":
                    works.append(self._claim_all(claim_id, ClaimsRequest(**terms, names=[f"b{n}x", f"b{n}y"]), seen))
                    continue
                request = ClaimRequest(**terms, name=f"{form}-{n}", **TERMS.get(form, {}))
                one = self._ask_service if form == "embedded" else self._claim
                works.append(one(claim_id, request, seen))
        return works

    async def _claim(self, claim_id: str, request: ClaimRequest, seen: Seen) -> None:
        async def ask() -> None:
            seen.answers[claim_id] = str((await self.client.claim_request(request, claim_id)).workspace_id)

        await self._until_answered(ask, [claim_id], seen)

    async def _claim_all(self, claim_id: str, request: ClaimsRequest, seen: Seen) -> None:
        async def ask() -> None:
            for claim in (await self.client.claim_all(request, claim_id)).claims:
                seen.answers[claim.claim_id] = str(claim.workspace_id)

        await self._until_answered(ask, [f"{claim_id}/{n}" for n in range(len(request.names))], seen)

    async def _until_answered(self, ask: Callable[[], Awaitable[None]], claim_ids: list[str], seen: Seen) -> None:
        """Claim, and repeat under the same id while the outcome is unknown."""
        for _ in range(RETRIES_MAX):
            try:
                return await ask()
            except (StoreUnavailable, StackUnreachable):
                seen.unknown += 1
            except PrebuildsError as error:
                seen.answers |= dict.fromkeys(claim_ids, error.type)
                return None
        raise AssertionError(f"{claim_ids} got no answer")

    async def _ask_service(self, claim_id: str, request: ClaimRequest, seen: Seen) -> None:
        message = {"claim_id": claim_id, "request": request.model_dump(mode="json", exclude_defaults=True)}
        stdin = self.processes["service"].stdin
        assert stdin is not None
        stdin.write(json.dumps(message).encode() + b"\n")
        seen.answers[claim_id] = ""  # until the service has printed it

    async def _read_answers(self, prefix: str, seen: Seen) -> None:
        """Wait until other workers have answered the frozen service's claims, and count the caught ones."""
        for claim_id in seen.answers:
            if "/" in claim_id:
                continue
            handle = self.client.temporal.get_workflow_handle(claim_workflow_id(claim_id))
            if await described(self.client.temporal, claim_workflow_id(claim_id)) is None:
                continue  # the service was frozen before it started this one
            events = [e async for e in handle.fetch_history_events(wait_new_event=False)]
            seen.caught += any(e.HasField("workflow_task_timed_out_event_attributes") for e in events)
            if seen.answers[claim_id] == "":
                try:
                    await handle.result()
                except WorkflowFailureError:
                    seen.answers[claim_id] = "no"  # Temporal's answer counts, whatever the service prints later

    async def _read_service(self, seen: Seen) -> None:
        stdout = self.processes["service"].stdout
        assert stdout is not None
        async with asyncio.timeout(ANSWERED_S):
            answers = 0
            while answers < CLAIMS["embedded"]:
                if not (line := await stdout.readline()):
                    raise AssertionError(f"the service has ended with {await self.processes['service'].wait()}")
                answers, answer = answers + 1, json.loads(line)
                claim_id, outcome = answer["claim_id"], answer["outcome"]
                if seen.answers[claim_id] == "no" and "-" in outcome:
                    seen.wrong.append(f"{claim_id}: Temporal answered no, the service {outcome}")
                seen.answers[claim_id] = outcome

    async def _until_quiet(self) -> None:
        clock = asyncio.get_running_loop().time
        since = clock()
        while clock() - since < QUIET_S:
            async with self.engine.connect() as connection:
                if await connection.scalar(BUSY):
                    since = clock()
            await asyncio.sleep(0.05)

    async def _check(self, prefix: str, seen: Seen) -> None:
        async with self.engine.connect() as connection:
            claimed = {row.id: row.workspace_id for row in await connection.execute(CLAIMED, {"prefix": prefix})}
        for claim_id, outcome in seen.answers.items():
            if "-" in outcome and claimed.get(claim_id) != outcome:
                seen.wrong.append(f"{claim_id}: answered {outcome}, has {claimed.get(claim_id)}")
            elif "-" not in outcome and outcome not in ("StoreUnavailable", "StackUnreachable") and claim_id in claimed:
                seen.wrong.append(f"{claim_id}: answered {outcome}, and claimed {claimed[claim_id]}")


@asynccontextmanager
async def deployment() -> AsyncIterator[Deployment]:
    """The servers, a claims worker behind the link, another one without it, and a service with its own worker."""

    async def prepare(database_url: str, temporal_address: str) -> UUID:
        return (await set_up(database_url, temporal_address)).deployment_id

    with tempfile.TemporaryDirectory(prefix="late-") as folder, tempfile.TemporaryDirectory(prefix="l-") as near:
        async with Stack(Path(folder), prepare=prepare) as stack:
            engine, link = create_engine(stack.database_url), Link()
            client = PrebuildsClient(await connect(stack.temporal_address))
            far = Path(socket_folder(stack.database_url))
            running = Deployment(stack, engine, client, link)
            async with link.between(Path(near), far):
                through_link = stack.database_url.replace(str(far), near)
                worker = ("-m", "worker", "--role", "claims")
                service = (str(Path(__file__).with_name("service.py")), stack.database_url)
                try:
                    await start(running, "claims", *worker, url=through_link)
                    await start(running, "other", *worker, url=stack.database_url)
                    await start(running, "service", *service, url=stack.database_url)
                    yield running
                finally:
                    for process in running.processes.values():
                        process.kill()
                        await process.wait()
                    await engine.dispose()


def socket_folder(database_url: str) -> str:
    """Return the socket's folder of an embedded PostgreSQL, which listens nowhere else."""
    return parse_qs(urlsplit(database_url).query)["host"][0]


async def start(running: Deployment, name: str, *words: str, url: str) -> None:
    """Start a process, and wait until it serves."""
    pipe = asyncio.subprocess.PIPE
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREBUILDS_", "TEMPORAL_"))}
    env |= {"PREBUILDS_DATABASE_URL": url, "TEMPORAL_ADDRESS": running.stack.temporal_address}
    env |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, env=env, stdin=pipe, stdout=pipe, stderr=pipe
    )
    running.processes[name] = process
    assert process.stdout is not None
    assert process.stderr is not None
    serving, other = (process.stdout, process.stderr) if name == "service" else (process.stderr, process.stdout)
    drained = [asyncio.create_task(drain(other))]
    async with asyncio.timeout(90):
        while line := await serving.readline():
            if b"ready" in line or b"Serving claims" in line:
                break
    if name != "service":
        drained.append(asyncio.create_task(drain(serving)))
    running.drains.extend(drained)


async def drain(stream: asyncio.StreamReader) -> None:
    while await stream.readline():
        pass
