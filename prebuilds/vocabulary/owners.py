"""Names of people and services: owners, initiators and members, as identity providers name them.

`alice@example.com`, `Alice.Smith` and a UUID are such names. Two names that differ only by case are one user's. The
database keeps each name as it was given first, and finds it by its key (decision 0016).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from base64 import b32encode
from typing import Annotated

from pydantic import AfterValidator

from prebuilds.vocabulary import NAME_LENGTH_MAX, NAME_PATTERN, PREBUILDS_USER
from prebuilds.vocabulary.plain_text import check_plain

OWNER_LENGTH_MAX = 128
OWNER_RULE = f"must be 1 to {OWNER_LENGTH_MAX} visible characters without spaces and slashes, such as alice@example.com"
RESERVED_RULE = f"{PREBUILDS_USER} is the system's own user; name a person or a service"
DOTS = (".", "..")
"""Names of folders that lead elsewhere: {owner} may stand in a path."""
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Letters and marks that show nothing; what shows nothing by its category is refused by that."""
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})
"""Controls, formats (bidi overrides among them), half surrogate pairs, white space; and what is not assigned, since
only assigned characters fold the same in every release of Unicode."""
_DIGEST_BYTES = 10
_SUFFIX = re.compile(r"-[a-z2-7]{16}$")
_BASE_LENGTH_MAX = NAME_LENGTH_MAX - 17
_NOT_IN_SLUGS = re.compile(r"[^a-z0-9]+")


def owner_key(name: str) -> str:
    """What two spellings of one user's name have in common: canonical composition of the name without case.

    Returns:
        Also for what is no valid name, which then is nobody's key.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def same_owner(one: str, other: str) -> bool:
    return owner_key(one) == owner_key(other)


def is_system(name: str) -> bool:
    """Whether this is the prebuilds user's name, in any case."""
    return owner_key(name) == PREBUILDS_USER


def check_owner_name(value: str) -> str:
    """Raises:
    ValueError: It is no name of a person or service; `prebuilds` is one by this rule.
    """
    check_plain(value)  # which names the character that has to go
    if not 0 < len(value) <= OWNER_LENGTH_MAX or "/" in value or _UNSEEN.search(value) or value in DOTS:
        raise ValueError(OWNER_RULE)
    # The key as well: it is what is stored and compared, and may be longer.
    if not all(_visible(text) for text in (value, owner_key(value))) or owner_key(value) in DOTS:
        raise ValueError(OWNER_RULE)
    return value


def check_person(value: str) -> str:
    """Raises:
    ValueError: It is no name, or the prebuilds user's.
    """
    if is_system(check_owner_name(value)):
        raise ValueError(RESERVED_RULE)
    return value


def owner_slug(name: str) -> str:
    """The name as a host name's label and as a folder: lower-case letters, digits and single dashes, at most 32.

    A name that is such a text already is its own slug. Any other gets as much of it as fits and 80 bits of its key's
    digest behind it; so does a name that only looks like that, so that two owners never have the same slug.
    """
    key = owner_key(name)
    if len(key) <= NAME_LENGTH_MAX and NAME_PATTERN.fullmatch(key) and not _SUFFIX.search(key):
        return key
    plain = _NOT_IN_SLUGS.sub("-", unicodedata.normalize("NFKD", key).encode("ascii", "ignore").decode().lower())
    base = plain.strip("-")[:_BASE_LENGTH_MAX].rstrip("-") or "u"
    digest = hashlib.sha256(key.encode()).digest()[:_DIGEST_BYTES]
    return f"{base}-{b32encode(digest).decode().lower()}"


def _visible(text: str) -> bool:
    return all(unicodedata.category(character) not in _REFUSED_CATEGORIES for character in text)


OwnerName = Annotated[str, AfterValidator(check_owner_name)]
Person = Annotated[str, AfterValidator(check_person)]
