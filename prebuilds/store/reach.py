"""Limits a list to what its reader may see, in the statement itself, so that pages stay full and cursors hold."""

from __future__ import annotations

from prebuilds.planning.policy import Reach
from prebuilds.vocabulary import DRILL_USER_ID, PREBUILDS_USER_ID
from prebuilds.vocabulary.owners import owner_key

WITHIN_REACH = f"""
    (CAST(:reach_all AS text[]) IS NULL OR o.name = ANY(CAST(:reach_all AS text[]))
     OR owner.id NOT IN ('{PREBUILDS_USER_ID}', '{DRILL_USER_ID}')
        AND (CAST(:reach_people AS text[]) IS NULL OR o.name = ANY(CAST(:reach_people AS text[]))
             OR owner.key = CAST(:reach_user AS text)
                AND (CAST(:reach_own AS text[]) IS NULL OR o.name = ANY(CAST(:reach_own AS text[])))))
"""
"""A condition on the organization `o` and the user `owner` of a row."""


def reach_values(reach: Reach) -> dict[str, object]:
    """Return the values of a statement with `WITHIN_REACH`."""
    return {
        "reach_all": None if reach.all is None else sorted(reach.all),
        "reach_people": None if reach.people is None else sorted(reach.people),
        "reach_own": None if reach.own is None else sorted(reach.own),
        "reach_user": None if reach.user is None else owner_key(reach.user),
    }
