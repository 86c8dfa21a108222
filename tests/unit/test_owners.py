"""Names of owners, how they compare, and their slugs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prebuilds.vocabulary import NAME_PATTERN
from prebuilds.vocabulary.owners import (
    OWNER_LENGTH_MAX,
    check_owner_name,
    check_person,
    is_system,
    owner_key,
    owner_slug,
    same_owner,
)

GOOD = [
    "alice",
    "alice@example.com",
    "Alice.Smith",
    "O'Brien+dev@example.com",
    "3f2b9c1e-6f0a-4a53-9d7d-0c3f6ad1c9b1",
    "auth0|5f7c8ec7c33c6c004bbafe82",
    "system:serviceaccount:ci:runner",
    "dependabot[bot]",
    "Zoë",
    "Љуба",
    "a" * 128,
    "...",
]
BAD = {
    "empty": "",
    "too long": "a" * 129,
    "slash": "acme/alice",
    "leading space": " alice",
    "trailing space": "alice ",
    "space": "Alice Smith",
    "no-break space": "alice\u00a0smith",
    "newline": "alice\n",
    "zero": "alice\0",
    "escape": "\x1b[31malice",
    "C1": "alice\x9b",
    "bidi override": "alice\u202etxt",
    "bidi isolate": "alice\u2066",
    "zero width": "ali\u200bce",
    "invisible letter": "alice\u3164",
    "variation selector": "alice\ufe0f",
    "half a surrogate pair": "alice\ud800",
    "private use": "\ue000",
    "unassigned": "alice\U000e0fff",
    "this folder": ".",
    "the folder above": "..",
}
SAME = [
    ("Alice@Example.COM", "alice@example.com"),
    ("ZO\u00cb", "zoe\u0308"),
    ("\u212bke", "\u00e5ke"),
    ("STRASSE", "Straße"),
    ("ΣΊΣΥΦΟΣ", "σίσυφος"),
]
names = st.text(min_size=1, max_size=40).filter(lambda text: _passes(check_owner_name, text))
likely = st.from_regex(r"[A-Za-z0-9.@_+-]{1,40}", fullmatch=True).filter(lambda text: text not in (".", ".."))


def _passes(check: Callable[[str], str], text: str) -> bool:
    try:
        check(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", GOOD)
def test_a_name_as_identity_providers_give_it_is_taken_as_it_is(name: str) -> None:
    assert check_person(name) == name


@pytest.mark.parametrize("name", BAD.values(), ids=BAD.keys())
def test_a_name_that_could_mislead_or_lead_elsewhere_is_refused(name: str) -> None:
    message = (
        f"must be 1 to {OWNER_LENGTH_MAX} visible characters|must not have control characters|half a surrogate pair"
    )
    with pytest.raises(ValueError, match=message):
        check_owner_name(name)


@pytest.mark.parametrize("name", ["prebuilds", "Prebuilds", "PREBUILDS"])
def test_nobody_is_called_as_the_system_user_in_any_case(name: str) -> None:
    assert is_system(name)
    with pytest.raises(ValueError, match="the system's own user"):
        check_person(name)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_names_that_differ_by_case_or_composition_are_one_owners(one: str, other: str) -> None:
    assert same_owner(one, other)
    assert owner_slug(one) == owner_slug(other)


def test_names_that_only_look_alike_are_not() -> None:
    assert not same_owner("alice", "\u0430lice")  # the second begins with a Cyrillic letter
    assert not same_owner("ﬁn", "fi n")


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("alice", "alice"),
        ("ALICE", "alice"),
        ("prebuilds", "prebuilds"),
        ("a" * 32, "a" * 32),
        ("alice@example.com", "alice-example-c-76gzqgp4byjl6dje"),
        ("Alice.Smith", "alice-smith-mnbfqj2xwh76bb3q"),
    ],
)
def test_a_slug_is_the_name_itself_or_has_a_digest_behind_it(name: str, slug: str) -> None:
    assert owner_slug(name) == slug


def test_a_name_that_looks_like_anothers_slug_has_another_slug() -> None:
    assert owner_slug("alice-example-c-76gzqgp4byjl6dje") != "alice-example-c-76gzqgp4byjl6dje"


@given(names | likely)
def test_a_key_is_its_own_key(name: str) -> None:
    key = owner_key(name)
    assert owner_key(key) == key == unicodedata.normalize("NFC", key)


@given(names | likely)
def test_a_slug_is_a_label_of_a_host_name(name: str) -> None:
    slug = owner_slug(name)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", slug)
    assert NAME_PATTERN.fullmatch(slug)


@given(names | likely, names | likely)
def test_different_owners_have_different_slugs(one: str, other: str) -> None:
    assume(not same_owner(one, other))
    assert owner_slug(one) != owner_slug(other)
    assert owner_slug(owner_slug(one)) != owner_slug(one) or owner_slug(one) == owner_key(one)
