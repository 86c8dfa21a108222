"""Validation errors in plain words: nobody is told of Python."""

from __future__ import annotations

import re

from pydantic_core._pydantic_core import list_all_errors

from prebuilds.payloads import plain_message

PYTHON = re.compile(r"\b(dictionary|instance of|tuple|frozenset|None|dataclass|object to extract)\b")
NOT_OURS = {"no_such_attribute", "frozen_instance", "frozen_field", "is_instance_of", "is_subclass_of", "callable_type"}
NOT_OURS |= {"get_attribute_error", "default_factory_not_called", "iteration_error", "iterable_type", "frozen_set_type"}
NOT_OURS |= {
    "missing_sentinel_error",
    "needs_python_object",
    "mapping_type",
    "assertion_error",
    "arguments_type",
    "named_tuple_type",
}
"""Kinds of error that no JSON can raise."""


def test_no_message_for_a_wrong_json_value_speaks_of_python() -> None:
    messages = {
        item["type"]: plain_message(item["type"], item["example_message_python"])
        for item in list_all_errors()
        if item["type"] not in NOT_OURS
    }
    assert len(messages) > 80
    assert {kind: message for kind, message in messages.items() if PYTHON.search(message)} == {}
