"""Other rows removed for their age: missed claims, events, versions, tokens, demand."""

from __future__ import annotations

from contextlib import aclosing
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.operations.event_feed import EventFeed
from prebuilds.store.claims import ClaimStore
from prebuilds.store.events import record_event
from prebuilds.store.sign_in_links import make_link
from tests.builders import apply_file, find_preset, make_preset
from tests.postgres.pool_steps import claim, make_ready, workspace_ids
from tests.postgres.retention_steps import count, remove_old, take_turn
from tests.rows import do, one

DAY = timedelta(days=1)


async def test_claims_that_won_nothing_go_and_waiting_ones_stay(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0)
    await make_ready(engine, preset, 1)
    await claim(store, preset, "won")
    for claim_id in ("missed", "waits", "young"):
        await claim(store, preset, claim_id)
    await do(
        engine,
        """
        INSERT INTO claim_queue (claim_id, workflow_id, template_id, preset_name, owner_id, initiator_id, request,
                                 request_hash, deadline)
        SELECT 'waits', 'w', :template_id, 'small', u.id, u.id, '{}', '', now() FROM users u WHERE u.key = 'alice'
        """,
        template_id=preset.template_id,
    )
    old = "UPDATE claims SET created_at = now() - interval '31 days', completed_at = now() - interval '31 days'"
    await do(engine, f"{old} WHERE id <> 'young'")
    await do(engine, "UPDATE claims SET created_at = now() - interval '31 days' WHERE id = 'young'")
    assert await remove_old(engine, "misses") == {"claims": 1}
    assert await count(engine, "claims", "id IN ('won', 'waits', 'young')") == 3


async def test_a_claim_whose_row_is_removed_meanwhile_is_recorded(engine: AsyncEngine, store: ClaimStore) -> None:
    """A trigger removes the row at the moment at which another transaction could: after the claim has found it."""
    preset = await make_preset(engine, instances=0)
    await claim(store, preset, "again", name="dev")
    async with engine.begin() as connection:
        await connection.execute(
            text("""
            CREATE FUNCTION take_away() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                DELETE FROM claims WHERE id = NEW.id AND workspace_id IS NULL AND run <> NEW.run;
                RETURN CASE WHEN FOUND THEN NULL ELSE NEW END;
            END $$
            """)
        )
        await connection.execute(
            text("CREATE TRIGGER take_away BEFORE INSERT ON claims FOR EACH ROW EXECUTE FUNCTION take_away()")
        )
    await make_ready(engine, preset, 1)
    claimed = await claim(store, preset, "again", name="dev")
    [workspace_id] = workspace_ids([claimed])
    assert (await one(engine, "SELECT workspace_id FROM claims WHERE id = 'again'")).workspace_id == workspace_id


async def test_a_reader_returning_too_late_gets_the_gap_reported(engine: AsyncEngine) -> None:
    async def record(kind: str) -> None:
        async with engine.begin() as connection:
            await record_event(connection, kind, "tester")

    for n in range(4):
        await record(f"e{n}")
    async with aclosing(EventFeed(engine).follow("0")) as parts:
        await anext(parts)
        first = await anext(parts)
    assert first.missing_after is None
    seen = [first.cursor_of(event) for event in first.events]
    await do(engine, "UPDATE events SET at = at - interval '91 days' WHERE kind IN ('e0', 'e1')")
    assert await remove_old(engine, "events") == {"events": 2}
    for cursor, missing in ((seen[0], seen[0]), (seen[1], None), ("0", None)):
        async with aclosing(EventFeed(engine).follow(cursor)) as parts:
            await anext(parts)
            part = await anext(parts)
        assert (part.missing_after, [event.kind for event in part.events]) == (missing, ["e2", "e3"])


async def test_events_go_in_their_order(engine: AsyncEngine) -> None:
    for kind in ("old", "young", "old too", "newest"):
        async with engine.begin() as connection:
            await record_event(connection, kind, "tester")
    await do(engine, "UPDATE events SET at = at - interval '91 days' WHERE kind LIKE 'old%'")
    assert await remove_old(engine, "events") == {"events": 1}
    assert await count(engine, "events", "kind = 'old too'") == 1, "a cursor implies that all events before it exist"


async def test_events_stay_as_long_as_the_first_release_keeps_them(engine: AsyncEngine) -> None:
    """Until `prebuilds migrate --finish`, its workers may run: they would report a restored database."""
    for kind in ("very old", "old", "newest"):
        async with engine.begin() as connection:
            await record_event(connection, kind, "tester")
    await do(engine, "UPDATE events SET at = at - interval '80 days' WHERE kind = 'old'")
    await do(engine, "UPDATE events SET at = at - interval '91 days' WHERE kind = 'very old'")
    finished = (await one(engine, "SELECT version_num FROM alembic_version")).version_num
    await do(engine, "UPDATE alembic_version SET version_num = '0001'")
    assert await remove_old(engine, "events", life=2 * DAY) == {"events": 1}
    await do(engine, "UPDATE alembic_version SET version_num = :finished", finished=finished)
    assert await remove_old(engine, "events", life=2 * DAY) == {"events": 1}
    assert await count(engine, "events", "kind = 'newest'") == 1


async def test_versions_go_with_their_presets_and_files_when_nothing_uses_them(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    small = {"name": "small", "instances": 0, "parameters": {"size": "s"}, "timezone": "UTC"}
    for n in range(13):
        await apply_file(engine, small, source={"command": ["sleep", str(n)]})
        if n == 1:
            await make_ready(engine, await find_preset(engine), 1)
    await do(engine, "UPDATE template_versions SET created_at = created_at - interval '91 days'")
    removed = await remove_old(engine, "versions")
    assert removed == {"template_versions": 1, "presets": 1}, (
        "ten stay, the active one, the one with a workspace, and the one from which the open rollout began"
    )
    assert await count(engine, "template_versions", "number IN (1, 2, 13)") == 3
    await do(engine, "UPDATE rollouts SET state = 'succeeded', ended_at = now() WHERE ended_at IS NULL")
    # As the release before has recorded claims of a kept pool: under the version that was active.
    version = "(SELECT {} FROM template_versions WHERE number = {})"
    await do(engine, f"UPDATE workspace_builds SET template_version_id = {version.format('id', 1)}")
    assert await remove_old(engine, "versions") == {}
    await do(engine, f"UPDATE workspace_builds SET template_version_id = {version.format('id', 2)}")
    assert await remove_old(engine, "versions") == {"template_versions": 1, "presets": 1}
    assert await remove_old(engine, "versions") == {}


async def test_rollouts_that_have_ended_go_but_for_the_newest(engine: AsyncEngine) -> None:
    for n in range(4):
        await apply_file(engine, {"name": "small", "instances": 0}, source={"command": ["sleep", str(n)]})
    assert await count(engine, "rollouts") == 3
    assert await remove_old(engine, "versions") == {}
    await do(
        engine,
        "UPDATE rollouts SET state = 'succeeded', started_at = started_at - interval '92 days',"
        " ended_at = now() - interval '91 days'",
    )
    assert await remove_old(engine, "versions") == {"rollouts": 2}
    assert (await one(engine, "SELECT to_number FROM rollouts")).to_number == 4


async def test_no_version_goes_beside_an_apply(engine: AsyncEngine) -> None:
    from prebuilds.store.apply import lock_apply

    async with engine.begin() as connection:
        await lock_apply(connection)
        assert await take_turn(engine, "versions") is None


async def test_revoked_tokens_and_old_links_go(engine: AsyncEngine) -> None:
    token = """
        INSERT INTO tokens (id, name, digest, scopes, epoch, created_by, expires_at, revoked_at, revoked_by)
        SELECT gen_random_uuid(), :name, sha256('x'), '{read}', epoch, 'ops', now() - CAST(:expired AS interval),
               now() - CAST(:revoked AS interval), CASE WHEN CAST(:revoked AS interval) IS NOT NULL THEN 'ops' END
          FROM settings
    """
    old, young = 91 * DAY, 89 * DAY
    for name, expired, revoked in (
        ("good", None, None),
        ("revoked", None, old),
        ("lately-revoked", -DAY, young),
        ("expired", old, None),
    ):
        await do(engine, token, name=name, expired=expired, revoked=revoked)
    assert await remove_old(engine, "tokens") == {"tokens": 2}
    await make_link(engine, "t")
    assert await remove_old(engine, "sign_in_links") == {}
    await do(engine, "UPDATE sign_in_links SET expires_at = now()")
    assert await remove_old(engine, "sign_in_links") == {"sign_in_links": 1}


async def test_old_demand_goes(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    for days in (91, 89):
        await do(
            engine,
            """
            INSERT INTO preset_demand (template_id, preset_name, minute, claims, hits)
            VALUES (:template_id, 'small', date_trunc('minute', now()) - CAST(:age AS interval), '{1,0,0,0,0,0}', 1)
            """,
            template_id=preset.template_id,
            age=timedelta(days=days),
        )
    assert await remove_old(engine, "demand") == {"preset_demand": 1}
