"""Names of people and services: owners, initiators and members, as identity providers name them.

`alice@example.com`, `Alice.Smith` and a UUID are such names. Two names that differ only by case belong to one user. The
database keeps each name as it was first given, and finds it by its key (decision 0016).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from base64 import b32encode
from typing import Annotated

from pydantic import AfterValidator

from prebuilds.vocabulary import DRILL_USER, NAME_LENGTH_MAX, NAME_PATTERN, PREBUILDS_USER
from prebuilds.vocabulary.plain_text import check_plain

OWNER_LENGTH_MAX = 128
OWNER_RULE = f"must be 1 to {OWNER_LENGTH_MAX} visible characters without spaces and slashes, such as alice@example.com"
SYSTEM_USERS = (PREBUILDS_USER, DRILL_USER)
RESERVED_RULE = f"{PREBUILDS_USER} and {DRILL_USER} are the system's own users; name a person or a service"
DOT_FOLDERS = (".", "..")
"""Refused, since the placeholder {owner} may stand in a path, where these names lead to other folders."""
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Invisible letters and marks. Other invisible characters are refused by their category."""
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})
"""Controls, formats (such as bidi overrides), private use, halves of surrogate pairs, white space, and unassigned
characters. The last are refused since only assigned characters fold alike in every release of Unicode."""
_DIGEST_BYTES = 10
_SUFFIX = re.compile(r"-[a-z2-7]{16}$")
_BASE_LENGTH_MAX = NAME_LENGTH_MAX - 17
_NOT_IN_SLUGS = re.compile(r"[^a-z0-9]+")


def owner_key(name: str) -> str:
    """Return the key that all spellings of one user's name have in common: the case-folded name in NFC.

    An invalid name has a key too, which belongs to no user.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def same_owner(one: str, other: str) -> bool:
    """Whether two names belong to one user."""
    return owner_key(one) == owner_key(other)


def is_system(name: str) -> bool:
    """Whether *name* is a system user's, in any case."""
    return owner_key(name) in SYSTEM_USERS


def check_owner_name(value: str) -> str:
    """Return *value* if it can be the name of a person or service. `prebuilds` is such a name too.

    Raises:
        ValueError: It cannot.
    """
    check_plain(value)  # its message names the character to remove
    if not 0 < len(value) <= OWNER_LENGTH_MAX or "/" in value or _UNSEEN.search(value) or value in DOT_FOLDERS:
        raise ValueError(OWNER_RULE)
    # The key is checked as well, since it is what is stored and compared, and it can contain other characters.
    if not all(_is_visible(text) for text in (value, owner_key(value))) or owner_key(value) in DOT_FOLDERS:
        raise ValueError(OWNER_RULE)
    return value


def check_person(value: str) -> str:
    """Return *value* if it can be the name of a person or service other than a system user.

    Raises:
        ValueError: It cannot.
    """
    if is_system(check_owner_name(value)):
        raise ValueError(RESERVED_RULE)
    return value


def owner_slug(name: str) -> str:
    """Return the owner's slug, for host names and folders: at most 32 lower-case letters, digits and single dashes.

    A name that already has this form is its own slug. The slug of any other name is as much of the name as fits,
    followed by 80 bits of its key's digest. A name that already looks like such a slug gets a digest too, so that two
    owners never have the same slug.
    """
    key = owner_key(name)
    if len(key) <= NAME_LENGTH_MAX and NAME_PATTERN.fullmatch(key) and not _SUFFIX.search(key):
        return key
    plain = _NOT_IN_SLUGS.sub("-", unicodedata.normalize("NFKD", key).encode("ascii", "ignore").decode().lower())
    base = plain.strip("-")[:_BASE_LENGTH_MAX].rstrip("-") or "u"
    digest = hashlib.sha256(key.encode()).digest()[:_DIGEST_BYTES]
    return f"{base}-{b32encode(digest).decode().lower()}"


def _is_visible(text: str) -> bool:
    return _REFUSED_CATEGORIES.isdisjoint(map(unicodedata.category, text))


OwnerName = Annotated[str, AfterValidator(check_owner_name)]
"""The name of a person or service, or of the prebuilds user."""
Person = Annotated[str, AfterValidator(check_person)]
"""The name of a person or service."""
