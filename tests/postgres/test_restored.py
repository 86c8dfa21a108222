"""A restored database is noticed at the first contact, and gives out and removes nothing until it is answered."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import DatabaseRestored, SupersededPass
from prebuilds.background.witness import HostWitness
from prebuilds.payloads import SeenEvent
from prebuilds.planning.plan import plan_preset
from prebuilds.store import history as store_history
from prebuilds.store.build_record import take_due_builds
from prebuilds.store.claims import ClaimStore
from prebuilds.store.identity import read_identity
from prebuilds.store.loop import read_control
from prebuilds.store.pool import create_prebuilds, delete_prebuilds
from prebuilds.store.restoring import restored
from prebuilds.store.snapshots import next_pass_number
from prebuilds.store.workspaces import show_workspace
from tests.builders import make_preset
from tests.postgres.pool_steps import RULES, claim, make_ready, planned_ids, record_prebuilds, snapshot_of
from tests.postgres.retention_steps import remove_old
from tests.rows import do, events, one


@pytest.fixture
def witness(engine: AsyncEngine, tmp_path: Path) -> HostWitness:
    return HostWitness(engine, tmp_path, "h1")


async def found_restored(engine: AsyncEngine) -> None:
    await store_history.report_restored(engine, "host h1: event 7 was seen", (await read_identity(engine)).epoch)


async def lose_newest_event(engine: AsyncEngine) -> None:
    await do(engine, "DELETE FROM events WHERE id = (SELECT max(id) FROM events)")


async def test_a_host_notices_what_the_database_has_lost(engine: AsyncEngine, witness: HostWitness) -> None:
    await make_preset(engine)
    for _ in range(2):
        await witness.contact()
    assert (await read_control(engine)).restore_found is None
    await lose_newest_event(engine)
    await witness.contact()
    found = (await read_control(engine)).restore_found
    assert found is not None
    assert found.startswith("host h1: event ")
    [(_, data)] = await events(engine, "restore_found")
    assert data["what"] == found


async def test_a_host_keeps_what_proves_the_loss_until_it_is_answered(
    engine: AsyncEngine, witness: HostWitness, tmp_path: Path
) -> None:
    await make_preset(engine)
    await witness.contact()
    proof = (tmp_path / "witness.json").read_text()
    await lose_newest_event(engine)
    await witness.contact()
    await do(engine, "UPDATE settings SET restore_found_at = NULL")
    await witness.contact()
    assert (await read_control(engine)).restore_found is not None, "a second restore of the same backup is noticed, too"
    assert (tmp_path / "witness.json").read_text() == proof
    await restored(engine, "ops", dry_run=False)
    await witness.contact()
    assert (await read_control(engine)).restore_found is None, "evidence from before the answer proves nothing"
    assert (
        SeenEvent.model_validate_json((tmp_path / "witness.json").read_text()).epoch
        == (await read_identity(engine)).epoch
    )


async def test_a_report_that_comes_after_the_answer_is_answered(engine: AsyncEngine) -> None:
    """The worker was frozen between its check and its report."""
    before = (await read_identity(engine)).epoch
    await found_restored(engine)
    await restored(engine, "ops", dry_run=False)
    await store_history.report_restored(engine, "host h1: event 7 was seen", before)
    assert (await read_control(engine)).restore_found is None
    await found_restored(engine)
    assert (await read_control(engine)).restore_found is not None


async def test_the_newest_event_stays_whatever_its_age(engine: AsyncEngine, witness: HostWitness) -> None:
    await make_preset(engine)
    await do(engine, "UPDATE events SET at = at - interval '91 days'")
    await witness.contact()
    assert await remove_old(engine, "events")
    await witness.contact()
    assert (await read_control(engine)).restore_found is None


async def test_nothing_is_given_out_before_an_operator_has_answered(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=2)
    await make_ready(engine, preset, 2)
    claimed = await claim(store, preset, claim_id="before", name="dev")
    await found_restored(engine)
    for on_empty in ("fail", "create", "wait"):
        with pytest.raises(DatabaseRestored, match="prebuilds restored"):
            await claim(store, preset, claim_id="after", on_empty=on_empty)
    again = await claim(store, preset, claim_id="before", name="dev")
    assert again.result == claimed.result, "an answered restore stays answered"


async def test_passes_write_nothing_and_pool_builds_are_not_begun(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=2)
    ready = await make_ready(engine, preset, 1)
    await record_prebuilds(engine, preset, 1)
    await do(engine, "UPDATE workspace_builds SET next_dispatch_at = now() WHERE status = 'pending'")
    await found_restored(engine)
    number = await next_pass_number(engine)
    plan = plan_preset(await snapshot_of(engine, preset), number)
    assert (plan.empty, plan.held) == (True, "paused")
    new = await planned_ids(engine, preset.id, number, 1)
    assert (await create_prebuilds(engine, preset.id, number, new, RULES)).workspace_ids == []
    assert (await delete_prebuilds(engine, preset.id, number, ready, RULES)).workspace_ids == []
    assert await take_due_builds(engine) == []


async def test_restored_doubts_every_prebuild_and_lets_go_on(engine: AsyncEngine, store: ClaimStore) -> None:
    marked = await make_preset(engine, template="marked", instances=1)
    unmarked = await make_preset(engine, template="unmarked", instances=1)
    # A foreign driver may keep no mark; ours always do.
    await do(engine, "UPDATE template_versions SET hands_over = false WHERE id = :id", id=unmarked.version_id)
    [replaced], [kept] = await make_ready(engine, marked, 1), await make_ready(engine, unmarked, 1)
    [not_begun] = await record_prebuilds(engine, marked, 1)
    await found_restored(engine)
    epoch = (await read_identity(engine)).epoch

    previewed = (await restored(engine, "ops", dry_run=True)).report
    assert {p.workspace_id: p.decision for p in previewed.prebuilds} == {replaced: "replaced", kept: "quarantined"}
    assert previewed.found == "host h1: event 7 was seen"
    assert (await read_identity(engine)).epoch == epoch, "a dry run changes nothing"
    with pytest.raises(DatabaseRestored):
        await claim(store, marked)

    done = await restored(engine, "ops", dry_run=False)
    assert done.report.prebuilds == previewed.prebuilds
    assert set(done.preset_ids) == {marked.id, unmarked.id}
    assert (await read_identity(engine)).epoch == done.report.epoch != epoch
    for preset in (marked, unmarked):
        assert (await claim(store, preset)).result is None, "nobody is given a prebuild of before"
    number = await next_pass_number(engine)
    assert plan_preset(await snapshot_of(engine, marked), number).delete == [replaced]
    plan = plan_preset(await snapshot_of(engine, unmarked), number)
    assert (plan.delete, len(plan.create)) == ([], 1), "a quarantined workspace is neither removed nor counted"
    assert (await delete_prebuilds(engine, unmarked.id, number, [kept], RULES)).workspace_ids == []
    assert (await one(engine, "SELECT deleted_at FROM workspaces WHERE id = :id", id=not_begun)).deleted_at is not None
    shown = await show_workspace(engine, str(kept))
    assert (shown.status, shown.warnings) == ("quarantined", ["quarantined"])
    assert "without a driver's step" in (shown.quarantine_reason or "")


async def test_a_pass_of_before_the_restore_holds_up_no_pool_after_it(engine: AsyncEngine) -> None:
    """It was on its way while the backup was restored, and its number is far ahead of the backup's."""
    preset = await make_preset(engine, instances=1)
    late = await next_pass_number(engine) + 5000
    new = await planned_ids(engine, preset.id, late, 1)
    [made] = (await create_prebuilds(engine, preset.id, late, new, RULES)).workspace_ids
    number = await next_pass_number(engine)
    with pytest.raises(SupersededPass):
        await delete_prebuilds(engine, preset.id, number, [made], RULES)
    await restored(engine, "ops", dry_run=False)
    number = await next_pass_number(engine)
    new = await planned_ids(engine, preset.id, number, 1)
    assert (await create_prebuilds(engine, preset.id, number, new, RULES)).workspace_ids == new
