"""The lint's workflow plans one ready prebuild on its host and skips those that are gone or unreachable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from activities.lint import Linted
from prebuilds.api import (
    InvalidInput,
    NoClaimablePrebuiltWorkspaces,
    PrebuildsError,
    PresetNotFound,
    ProvisionerUnavailable,
    ProvisionFailed,
)
from prebuilds.client import PrebuildsClient
from prebuilds.payloads import Replacement
from prebuilds.store.lint import Candidate, Candidates
from prebuilds.vocabulary import CONTROL_QUEUE
from workflows import lint_preset
from workflows.lint_preset import LintPreset

PRESET, NEAR, AWAY = "acme/python/small", "prebuilds-provisioner-people@h1", "prebuilds-provisioner-people@h2"
VM = Replacement(resource="vm.main", paths=["owner"])


class Prebuilds:
    """Ready prebuilds by id, each with its queue and the result of planning its claim."""

    def __init__(self, *found: tuple[str, Linted | ApplicationError]) -> None:
        self.answers = {uuid4(): (queue, answer) for queue, answer in found}
        self.planned: list[UUID] = []
        self.refusal: ApplicationError | None = None

    @property
    def ids(self) -> list[UUID]:
        return list(self.answers)

    @activity.defn
    async def find_candidates(self, preset: str) -> Candidates:
        if self.refusal is not None:
            raise self.refusal
        prebuilds = [Candidate(id, 1, queue) for id, (queue, _) in self.answers.items()]
        return Candidates(UUID(int=7), preset, prebuilds)

    @activity.defn
    async def plan_claim(self, candidate: Candidate) -> Linted:
        assert activity.info().task_queue == candidate.queue
        self.planned.append(candidate.workspace_id)
        answer = self.answers[candidate.workspace_id][1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @asynccontextmanager
    async def serving(self, client: Client, *, sandboxed: bool = True) -> AsyncIterator[PrebuildsClient]:
        """Workers for control and for NEAR. The SDK's sandbox hides what a test patches."""
        async with AsyncExitStack() as stack:
            control = Worker(
                client,
                task_queue=CONTROL_QUEUE,
                workflows=[LintPreset],
                activities=[self.find_candidates],
                workflow_runner=SandboxedWorkflowRunner() if sandboxed else UnsandboxedWorkflowRunner(),
            )
            await stack.enter_async_context(control)
            await stack.enter_async_context(Worker(client, task_queue=NEAR, activities=[self.plan_claim]))
            yield PrebuildsClient(client)


def failure(kind: type[PrebuildsError]) -> ApplicationError:
    return ApplicationError("as told", {"a": "b"}, type=kind.__name__, non_retryable=True)


async def test_lint_plans_one_prebuild_and_reports_it(skipping: WorkflowEnvironment) -> None:
    prebuilds = Prebuilds((NEAR, Linted(replacements=[VM])), (NEAR, Linted()))
    async with prebuilds.serving(skipping.client) as client:
        report = await client.lint_preset(PRESET)
    assert (report.preset, report.workspace_id, report.replacements) == (PRESET, prebuilds.ids[0], [VM])
    assert prebuilds.planned == prebuilds.ids[:1]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server skips no time while a worker polls, so the wait for an absent one is shortened."""
    monkeypatch.setattr(lint_preset, "TAKE_UP_TIMEOUT", timedelta(milliseconds=500))


@pytest.mark.usefixtures("impatient")
async def test_lint_skips_claimed_and_unreachable_prebuilds(skipping: WorkflowEnvironment) -> None:
    prebuilds = Prebuilds((NEAR, Linted(gone=True)), (AWAY, Linted(replacements=[VM])), (NEAR, Linted()))
    async with prebuilds.serving(skipping.client, sandboxed=False) as client:
        report = await client.lint_preset(PRESET)
    assert (report.workspace_id, report.replacements) == (prebuilds.ids[2], [])


async def test_lint_reports_that_all_were_claimed_meanwhile(skipping: WorkflowEnvironment) -> None:
    prebuilds = Prebuilds((NEAR, Linted(gone=True)), (NEAR, Linted(gone=True)))
    async with prebuilds.serving(skipping.client) as client:
        with pytest.raises(NoClaimablePrebuiltWorkspaces, match="claimed meanwhile"):
            await client.lint_preset(PRESET)
    assert prebuilds.planned == prebuilds.ids


@pytest.mark.usefixtures("impatient")
async def test_lint_names_the_queue_without_a_worker(skipping: WorkflowEnvironment) -> None:
    async with Prebuilds((AWAY, Linted())).serving(skipping.client, sandboxed=False) as client:
        with pytest.raises(ProvisionerUnavailable, match=AWAY) as refused:
            await client.lint_preset(PRESET)
    assert refused.value.details == {"queue": AWAY}


@pytest.mark.parametrize("kind", [PresetNotFound, NoClaimablePrebuiltWorkspaces])
async def test_a_refusal_keeps_its_type(skipping: WorkflowEnvironment, kind: type[PrebuildsError]) -> None:
    prebuilds = Prebuilds()
    prebuilds.refusal = failure(kind)
    async with prebuilds.serving(skipping.client) as client:
        with pytest.raises(kind, match="as told"):
            await client.lint_preset(PRESET)


async def test_a_failed_plan_ends_the_lint(skipping: WorkflowEnvironment) -> None:
    prebuilds = Prebuilds((NEAR, failure(ProvisionFailed)), (NEAR, Linted()))
    async with prebuilds.serving(skipping.client) as client:
        with pytest.raises(ProvisionFailed, match="as told"):
            await client.lint_preset(PRESET)
    assert prebuilds.planned == prebuilds.ids[:1]


@pytest.mark.parametrize("args", [[], [{"preset": ""}], [{"preset": PRESET}, 2], ["x"]])
async def test_an_unreadable_lint_input_is_refused(skipping: WorkflowEnvironment, args: list[Any]) -> None:
    from temporalio.client import WorkflowFailureError

    from prebuilds.failures.crossing import error_of

    async with Prebuilds().serving(skipping.client) as client:
        with pytest.raises(WorkflowFailureError) as failed:
            await client.temporal.execute_workflow(
                "LintPreset", args=args, id="lint-preset/x", task_queue=CONTROL_QUEUE
            )
    assert isinstance(error_of(failed.value.cause), InvalidInput)
