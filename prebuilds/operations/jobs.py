"""Builds as jobs: list them, cancel them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prebuilds.api import InvalidInput
from prebuilds.operations.context import Context, report_batches
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.store import jobs
from prebuilds.store.paging import LIMIT_DEFAULT, check_limit, make_page
from prebuilds.views import CancelResult, JobFilter, JobRow, Page
from prebuilds.vocabulary.actors import Actor


@dataclass(frozen=True, slots=True)
class JobOperations:
    """Operations on builds, which the command line calls jobs."""

    context: Context

    async def list(
        self,
        job_filter: JobFilter,
        *,
        reach: Reach = EVERYWHERE,
        limit: int = LIMIT_DEFAULT,
        after: str | None = None,
    ) -> Page[JobRow]:
        """List one page of the builds that match, newest first.

        Args:
            reach: Only builds of workspaces within it.
            after: The `next` of the previous page; None for the first page.
        """
        rows = await jobs.list_jobs(
            self.context.engine, job_filter, reach=reach, limit=check_limit(limit) + 1, after=after
        )
        return make_page(rows, limit, jobs.job_cursor)

    async def cancel(
        self,
        actor: Actor,
        job_filter: JobFilter,
        *,
        reach: Reach = EVERYWHERE,
        dry_run: bool = False,
        on_progress: Callable[[int], None] | None = None,
    ) -> CancelResult:
        """Cancel all builds that match, in batches. Only pending builds match unless the filter names other states.

        Args:
            reach: Only builds of workspaces within it.
            dry_run: Count the builds without canceling them.
            on_progress: Called after each batch with the number of builds canceled so far.
        Raises:
            InvalidInput: The filter is empty. It is refused so that a typing error cannot cancel every build.
        """
        if job_filter.empty:
            raise InvalidInput.field("filter", "give at least one of initiator, status and template")
        on_batch = report_batches(self.context.dispatcher.cancel_builds, on_progress)
        done = await jobs.cancel_jobs(
            self.context.engine, job_filter, actor.name, reach=reach, dry_run=dry_run, on_batch=on_batch
        )
        return done.result
