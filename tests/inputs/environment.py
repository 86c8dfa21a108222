"""The environment of any kind: settings are read, or refused with the variable's name; a database's address, too."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

from hypothesis import strategies as st

from prebuilds.api import PrebuildsError
from prebuilds.settings import READ_ELSEWHERE, Settings, database_url, load_settings, temporal_ui
from prebuilds.store.engine import check_reachable, create_engine, database_named
from tests.inputs.values import Trial, check_refusal, texts

FIELDS = sorted({name.upper() for name in Settings.model_fields} | READ_ELSEWHERE)
VALUES = (
    *("http://h", "https://[::1", "http://h:99999/", "http://h:x", "h:1", "127.0.0.1:1", "postgresql://127.0.0.1:1/x"),
    *(
        "postgresql://",
        "postgresql://u:p@127.0.0.1:1,127.0.0.1:1/x?sslmode=verify-full",
        "postgresql:///x?host=/nowhere",
    ),
    *("postgresql://127.0.0.1:1/x?sslmode=odd", "postgresql://127.0.0.1:1/x?pool_mode=odd", "postgresql://%zz@[/x"),
    *(
        "postgresql://127.0.0.1:1/x?target_session_attrs=odd",
        "postgresql://127.0.0.1:1/x?sslrootcert=/nowhere&sslmode=verify-ca",
    ),
    *(
        "a:b",
        "k1:aGk=",
        "k1:" + "A" * 44,
        "65536",
        "100-50",
        "1000-2000",
        "team=operate",
        "1e3",
        "5 s",
        "\u221e",
        "\uff15",
    ),
)


def _fits(value: str) -> bool:
    """Return whether the environment of a process can contain it."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


values = (texts | st.sampled_from(VALUES)).filter(_fits)
environments = st.dictionaries(
    st.sampled_from(FIELDS) | st.sampled_from(FIELDS) | st.text("ABC_", max_size=8), values, max_size=3
)


async def check_environment(trial: Trial, given: dict[str, str]) -> str:
    """Read the settings of an environment and use them. Return the outcome."""
    environment = {f"PREBUILDS_{name}": value for name, value in given.items()}
    ours: dict[str, Any] = {name: "" for name in os.environ if name.startswith("PREBUILDS_")}
    with mock.patch.dict(os.environ, environment | {"TEMPORAL_ADDRESS": "127.0.0.1:1"}):
        for name in ours:
            os.environ.pop(name) if name not in environment else None
        try:
            settings = load_settings()
            _ = (settings.rules, settings.oidc, settings.ring, settings.encrypts_payloads, temporal_ui(settings))
            url = database_url(settings)
            await check_reachable(url)
            database_named(url)
            await create_engine(url).dispose()
        except PrebuildsError as refused:
            check_refusal(refused, fields=refused.type == "InvalidInput")
            return refused.type
    return "read"
