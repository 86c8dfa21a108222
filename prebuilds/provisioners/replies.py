"""Checks what drivers return and raise: other people write them, and a recorded value must stay readable."""

from __future__ import annotations

import json
import re
from typing import Any

from prebuilds.api import ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import Provisioned, Stopped
from prebuilds.vocabulary.plain_text import escape, escape_all

ADDRESS_MAX = 2_000
"""Maximum length of an address, in characters."""
RESOURCES_MAX = 100_000
"""Maximum length of a workspace's resources as JSON, in characters. People read them."""
STATE_MAX = 32_000_000
"""Maximum length of a driver's state as JSON, in characters. Terraform's, the largest, is a hundredth of this."""
REPLACEMENTS_MAX = 1_000
UNPRINTABLE = ", which cannot be printed"
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class InvalidReply(ProvisionFailed):
    """A driver returned or saved a value that cannot be recorded. Nothing of it was recorded."""

    default_remedy = "have the provisioner corrected: `prebuilds provisioners conform` shows what it gets wrong"


def check_made(method: str, reply: object, *, optional: bool = False) -> Provisioned | None:
    """Check and return the result of `apply`, `claim` or `stop`.

    Args:
        method: The driver's method, for the message.
        optional: Whether None is a valid result.
    Raises:
        InvalidReply: The result is no `Provisioned`, or has values that cannot be recorded.
    """
    if reply is None and optional:
        return None
    if not isinstance(reply, Provisioned):
        raise InvalidReply.field(method, f"must return a Provisioned, and returned a {type(reply).__name__}")
    address, resources, state = reply.address, reply.resources, reply.state
    if address is not None and not (isinstance(address, str) and len(address) <= ADDRESS_MAX):
        raise InvalidReply.field(f"{method}.address", f"must be None or text of at most {ADDRESS_MAX} characters")
    resources_text = json_object(f"{method}.resources", escape_all(resources), RESOURCES_MAX)
    made: dict[str, Any] = {
        "address": None if address is None else escape(address),
        "resources": json.loads(resources_text),
        "state": None if state is None else json.loads(json_object(f"{method}.state", state, STATE_MAX)),
    }
    if isinstance(reply, Stopped):
        return Stopped.model_construct(**made, kept=check_replacements(f"{method}.kept", reply.kept))
    return Provisioned.model_construct(**made)


def check_replacements(field: str, reply: object) -> list[Replacement]:
    """Check and return the result of `plan`.

    Raises:
        InvalidReply: The result is no list of `Replacement`, or has too many of them.
    """
    if not isinstance(reply, list) or not all(isinstance(one, Replacement) for one in reply):
        raise InvalidReply.field(field, "must be a list of Replacement")
    if len(reply) > REPLACEMENTS_MAX:
        raise InvalidReply.field(field, f"has {len(reply)} replacements, and may have {REPLACEMENTS_MAX}")
    return reply


def json_object(field: str, value: object, length_max: int) -> str:
    """Return a mapping as JSON that the database accepts.

    Raises:
        InvalidReply: It is no mapping; it has values that JSON or PostgreSQL cannot store, such as other types, NaN,
            NUL or half of a surrogate pair; or it is too long or too deep.
    """
    if not isinstance(value, dict):
        raise InvalidReply.field(field, f"must be a mapping, and is a {type(value).__name__}")
    try:
        text = json.dumps(value, allow_nan=False)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise InvalidReply.field(field, "is nested too deeply, or contains itself") from None
    except (TypeError, ValueError) as error:
        raise InvalidReply.field(field, f"must have values of JSON alone ({words_of(error)})") from None
    if len(text) > length_max:
        raise InvalidReply.field(field, f"has {len(text)} characters as JSON, and may have {length_max}")
    if _NUL.search(text):
        raise InvalidReply.field(field, "must not have the character U+0000, which the database does not take")
    return text


def words_of(error: BaseException) -> str:
    """Return an exception's type and text. A driver may raise an exception that cannot be printed."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return f"{type(error).__name__}{UNPRINTABLE}"
