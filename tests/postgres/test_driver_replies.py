"""Invalid results and errors of a driver: the build fails with a typed error, and nothing unreadable is stored."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.provisioning import UNEXPECTED_TRIES_MAX, ProvisioningActivities
from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.base import Locality, Progress, Provision, Provisioned
from prebuilds.vocabulary import build_id_of
from tests.builders import make_preset
from tests.postgres.pool_steps import NotedDispatcher, record_prebuilds
from tests.rows import one

FOREVER: dict[str, Any] = {}
FOREVER["a"] = FOREVER


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@dataclasses.dataclass
class Odd:
    """A driver with the given saved state, error and result."""

    reply: Any = None
    error: BaseException | None = None
    saves: Any = None
    locality = Locality.SHARED

    async def apply(self, wanted: Provision, progress: Progress) -> Any:
        if self.saves is not None:
            await progress.save_state(self.saves)
        if self.error is not None:
            raise self.error
        return self.reply


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (Odd(None), "apply: must return a Provisioned, and returned a NoneType"),
        (Odd({"address": "h"}), "apply: must return a Provisioned, and returned a dict"),
        (
            Odd(Provisioned(state={"a": float("nan")})),
            "apply.state: must have values of JSON alone (ValueError: ",
        ),
        (Odd(Provisioned(state={"a": b"x"})), "apply.state: must have values of JSON alone (TypeError: Object of type"),
        (Odd(Provisioned(state={"a": "\0"})), "apply.state: must not have the character U+0000"),
        (Odd(Provisioned(state={"a": "\ud800"})), "apply.state: must have values of JSON alone (UnicodeEncodeError"),
        (Odd(Provisioned(resources={"a": float("inf")})), "apply.resources: must have values of JSON alone"),
        (Odd(Provisioned(resources={"a": "x" * 200_000})), "apply.resources: has 200009 characters as JSON"),
        (Odd(Provisioned(address="h" * 3000)), "apply.address: must be None or text of at most 2000 characters"),
        (Odd(Provisioned.model_construct(address=5, resources={}, state=None)), "apply.address: must be None or text"),
        (Odd(Provisioned(), saves=[1]), "save_state: must be a mapping, and is a list"),
        (Odd(Provisioned(), saves=FOREVER), "save_state: "),
    ],
)
async def test_a_reply_that_cannot_be_kept_fails_the_build_at_once(
    engine: AsyncEngine, driver: Odd, message: str
) -> None:
    row = await outcome(engine, driver, attempts=1)
    assert (row.status, row.error_type, row.provisioner_state) == ("failed", "InvalidReply", None)
    assert row.error.startswith(message)
    assert row.claimable_preset_id is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SystemExit(3), "UnexpectedEnd: the provisioner has called exit(3)"),
        (asyncio.CancelledError(), "UnexpectedEnd: the provisioner has cancelled itself"),
        (Unspeakable(), "UnexpectedEnd: the provisioner has raised Unspeakable, which cannot be printed"),
    ],
    ids=["exit", "cancelled", "unspeakable"],
)
async def test_an_end_that_no_driver_may_have_is_tried_thrice_and_fails_the_build(
    engine: AsyncEngine, error: BaseException, message: str
) -> None:
    row = await outcome(engine, Odd(error=error), attempts=UNEXPECTED_TRIES_MAX)
    assert (row.status, row.error_type, row.error) == ("failed", "UnexpectedEnd", message)


async def test_a_failure_without_a_reason_is_reported_as_such(engine: AsyncEngine) -> None:
    row = await outcome(engine, Odd(error=ProvisionFailed("")), attempts=1)
    assert (row.error_type, row.error) == (
        "ProvisionFailed",
        "ProvisionFailed, for which the provisioner gave no reason",
    )


async def outcome(engine: AsyncEngine, driver: Odd, *, attempts: int) -> Any:
    """Return the outcome of a creation by this driver after *attempts* attempts."""
    [workspace_id] = await record_prebuilds(engine, await make_preset(engine), 1)
    build_id = build_id_of(workspace_id, 1)
    activities = ProvisioningActivities(engine, NotedDispatcher(), lambda _: cast("Any", driver), "host")
    heard: list[Any] = []
    for attempt in range(attempts):
        environment = ActivityEnvironment()
        environment.info = dataclasses.replace(environment.info, heartbeat_details=heard[-1:])
        environment.on_heartbeat = heard.append
        try:
            await environment.run(activities.run_build, build_id)
        except Exception as failed:
            str(failed)  # Temporal prints it
            if attempt + 1 == attempts:
                raise
    return await one(
        engine,
        """SELECT b.status, b.error, b.error_type, b.provisioner_state, w.claimable_preset_id
             FROM workspace_builds b JOIN workspaces w ON w.id = b.workspace_id WHERE b.id = :id""",
        id=build_id,
    )
