"""The environment, read once into a frozen model. Unset, it falls back to what `prebuilds dev` wrote for this user."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, HttpUrl, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from prebuilds.api import InvalidInput, StackUnreachable
from prebuilds.payloads import field_messages
from prebuilds.planning.rules import Rules
from prebuilds.settings.sealing import KeyRing, parse_ring
from prebuilds.settings.state_key import split_keys
from prebuilds.settings.user_ids import parse_user_ids
from prebuilds.temporal.payload_key import parse_payload_keys
from prebuilds.temporal.stack_file import STACK_FILE, embedded_temporal, read_stack_file
from prebuilds.vocabulary import Duration, check_interval
from prebuilds.vocabulary.plain_text import escape

logger = logging.getLogger(__name__)

_warned: set[str] = set()
"""Variables that this process was warned of."""

Orphans = Literal["remove", "report"]


class Settings(BaseSettings):
    """`PREBUILDS_*`, with the defaults of a deployment."""

    model_config = SettingsConfigDict(env_prefix="PREBUILDS_", frozen=True, extra="ignore", hide_input_in_errors=True)

    database_url: str | None = Field(default=None, repr=False)
    state_dir: Path = Path(".prebuilds")
    """Of the embedded stack, and of provisioners that keep things on this host."""
    reconcile_interval: Annotated[Duration, AfterValidator(check_interval)] = timedelta(seconds=15)
    max_parallel_presets: int = Field(default=20, ge=1, le=500)
    enabled: bool = True
    """Off: claims that ask for a prebuild are refused, pools are emptied."""
    create_owners: bool = True
    """Whether a claim with `create_owner` may add its owner to the organization."""
    backoff_interval: Duration = timedelta(minutes=1)
    backoff_lookback: Duration = timedelta(hours=1)
    failure_hard_limit: int = Field(default=3, ge=0, le=1000)
    failed_retention: Duration = timedelta(hours=1)
    max_pending_builds: int | None = Field(default=None, ge=1)
    orphans: Orphans = "remove"
    """What happens to a thing that no live workspace is known by, after its second sighting."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Serve Prometheus text here; 0 takes a free port."""
    webhook_url: HttpUrl | None = Field(default=None, repr=False)
    """Where operators are told that a claim replaced resources."""
    state_key: SecretStr | None = None
    """Seals what claims bring. Drivers read theirs from the environment; here it is checked, so that no worker starts
    with a wrong one."""
    deployment: UUID | None = None
    """Which deployment this must be: a database or a Temporal namespace of another one is refused."""
    payload_key: SecretStr | None = None
    """As `state_key`; used by the connection to Temporal, which reads the environment."""

    process_uids: str | None = None
    """The user ids of `process` workspaces; read where it is used, and only checked here."""

    @field_validator("process_uids")
    @classmethod
    def _are_user_ids(cls, value: str | None) -> str | None:
        if value:
            parse_user_ids(value)
        return value

    @field_validator("state_key")
    @classmethod
    def _are_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            split_keys(value.get_secret_value())
        return value

    @field_validator("payload_key")
    @classmethod
    def _are_payload_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_payload_keys(value.get_secret_value())
        return value

    @property
    def ring(self) -> KeyRing:
        return parse_ring(self.state_key.get_secret_value() if self.state_key is not None else "")

    @property
    def encrypts_payloads(self) -> bool:
        return self.payload_key is not None and bool(parse_payload_keys(self.payload_key.get_secret_value()).keys)

    @property
    def rules(self) -> Rules:
        return Rules(**{field.name: getattr(self, field.name) for field in fields(Rules)})


OTHERS = frozenset(
    ("DATABASE_PASSWORD_FILE", "HOST_ID", "LOG_FORMAT", "TERRAFORM", "TOKEN", "URL", "TEST_DATABASE_URL")
)
"""Variables that are read elsewhere than by `Settings`."""
OF_WORKSPACES = re.compile(r"WORKSPACE_ID|OWNER|OWNER_SLUG|NAME|CLAIM_FILE|USER|USER_ID|(PARAM|CLAIM)_.*")
"""What a workspace's own command is given: a shell inside a workspace has them, and may run commands of ours."""


def check_names(environment: Mapping[str, str]) -> None:
    """Warn of variables that begin with `PREBUILDS_` and are none of ours, such as misspelt ones.

    Raises:
        InvalidInput: PREBUILDS_STATE_DIR is empty, as by a script's unset variable: it would name the current folder.
    """
    if environment.get("PREBUILDS_STATE_DIR", "x").strip() == "":
        raise InvalidInput.field("PREBUILDS_STATE_DIR", "is empty; name a folder, or unset it for .prebuilds here")
    known = {name.upper() for name in Settings.model_fields} | OTHERS
    for variable in sorted(environment):
        name = variable.upper().removeprefix("PREBUILDS_")
        if not variable.upper().startswith("PREBUILDS_") or name in known or OF_WORKSPACES.fullmatch(name):
            continue
        if variable in _warned:
            continue
        _warned.add(variable)
        near = get_close_matches(name, known, 1, cutoff=0.75)
        meant = f"; is PREBUILDS_{near[0]} meant?" if near else "; it does nothing"
        logger.warning("%s is no variable of Prebuilds%s", escape(variable), meant)


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        InvalidInput: Naming each variable that cannot be read, and how to write it.
    """
    check_names(os.environ)
    try:
        return Settings()
    except ValidationError as error:
        wrong = {f"PREBUILDS_{name.upper()}": message for name, message in field_messages(error).items()}
        text = "; ".join(f"{name}: {message}" for name, message in wrong.items())
        raise InvalidInput(f"the environment is not valid: {text}", wrong) from error


def database_url(settings: Settings) -> str:
    """Where the database is.

    Raises:
        StackUnreachable: Neither set nor to be found.
    """
    url = settings.database_url or read_stack_file(settings.state_dir).get("database_url")
    if not url:
        raise StackUnreachable(
            f"no database is configured: set PREBUILDS_DATABASE_URL, or start `prebuilds dev` here "
            f"(looked for {settings.state_dir / STACK_FILE})"
        )
    return str(url)


def temporal_address(settings: Settings) -> str | None:
    """The embedded server's address when the SDK's own settings say nothing; None leaves it to them."""
    return embedded_temporal(settings.state_dir)
