"""Reads `PREBUILDS_PROCESS_UIDS`, the user ids that `process` workspaces of this host may run as."""

from __future__ import annotations

import re

VARIABLE = "PREBUILDS_PROCESS_UIDS"
NONE = "none"
ID_MIN = 1000
"""On every distribution, lower ids belong to the system's own users."""
ID_MAX = 2**31 - 2
"""Some programs read larger ids as negative numbers, and -1 has a special meaning."""
NOBODY = 65534
"""The id of the user nobody, which the kernel also shows for ids that it cannot map."""


def parse_user_ids(text: str) -> range | None:
    """Return the ids of a range such as `100000-165535`, both ends included; None for `none`.

    Raises:
        ValueError: The text is neither, or the range contains ids that belong to others. The message says how to write
            it.
    """
    if text.strip().lower() == NONE:
        return None
    found = re.fullmatch(r"\s*(\d{1,10})\s*-\s*(\d{1,10})\s*", text)
    if found is None:
        raise ValueError(f"must be a range of user ids, such as 100000-165535, or {NONE}")
    first, last = int(found[1]), int(found[2])
    if first > last:
        raise ValueError(f"the range {first}-{last} is empty; write the lower id first")
    if first < ID_MIN or last > ID_MAX:
        raise ValueError(f"must lie between {ID_MIN} and {ID_MAX}; lower ids are the system's own users")
    if first <= NOBODY <= last:
        raise ValueError(f"must not contain {NOBODY}, which is the user nobody")
    return range(first, last + 1)
