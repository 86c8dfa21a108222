"""The settings of a process, read once from the environment into a frozen model.

Where the environment does not name a database or a Temporal server, they fall back to the file that `prebuilds dev` has
written in the state folder.
"""

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

from pydantic import AfterValidator, Field, HttpUrl, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from prebuilds.api import InvalidInput, StackUnreachable
from prebuilds.payloads import field_messages
from prebuilds.planning.rules import Rules
from prebuilds.settings.oidc import OidcRules, check_address, parse_group_scopes
from prebuilds.settings.retention import RetentionSettings
from prebuilds.settings.sealing import KeyRing, parse_key_ring
from prebuilds.settings.state_key import split_keys
from prebuilds.settings.user_ids import parse_user_ids
from prebuilds.settings.webhook_secrets import Signer, parse_webhook_secrets
from prebuilds.temporal.payload_key import parse_payload_keys
from prebuilds.temporal.stack_file import STACK_FILE, bearer_token, embedded_temporal, read_stack_file, state_dir
from prebuilds.vocabulary import Duration, check_interval
from prebuilds.vocabulary.plain_text import escape

logger = logging.getLogger(__name__)

_warned_variables: set[str] = set()
"""Variables that this process has already warned of."""

STATEMENT_TIMEOUT = timedelta(seconds=60)
"""Statements take seconds at most, also with 100,000 workspaces."""
Orphans = Literal["remove", "report"]
CallersTraces = Literal["continue", "link", "ignore"]


class Settings(RetentionSettings):
    """The variables `PREBUILDS_*`, with their defaults. A field's variable is its name in upper case."""

    model_config = SettingsConfigDict(env_prefix="PREBUILDS_", frozen=True, extra="ignore", hide_input_in_errors=True)

    database_url: str | None = Field(default=None, repr=False)
    database_connections: int = Field(default=36, ge=12, le=1000)
    """The most connections to the database that a worker or an HTTP server opens."""
    database_statement_timeout: Annotated[Duration, AfterValidator(check_interval)] = STATEMENT_TIMEOUT
    """The longest time of a statement. Claims have a shorter one of their own, and migrations none."""
    state_dir: Path = Path(".prebuilds")
    """The folder of the embedded stack, and of provisioners that keep things on this host."""
    reconcile_interval: Annotated[Duration, AfterValidator(check_interval)] = timedelta(seconds=15)
    max_parallel_presets: int = Field(default=20, ge=1, le=500)
    enabled: bool = True
    """False: claims that ask for a prebuild are refused, and pools are emptied."""
    create_owners: bool = True
    """Whether a claim with `create_owner` may add its owner to the organization."""
    backoff_interval: Duration = timedelta(minutes=1)
    backoff_lookback: Duration = timedelta(hours=1)
    failure_hard_limit: int = Field(default=3, ge=0, le=1000)
    failed_retention: Duration = timedelta(hours=1)
    max_pending_builds: int | None = Field(default=None, ge=1)
    orphans: Orphans = "remove"
    """What to do with an orphan after its second sighting."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """The port on which to serve Prometheus text; 0 takes a free port, None serves nothing."""
    metrics_host: str = Field(default="127.0.0.1", min_length=1)
    """Where that port is open; 0.0.0.0 for all of this machine's addresses."""
    http_host: str = Field(default="127.0.0.1", min_length=1)
    """Where the HTTP server listens; 0.0.0.0 for all of this machine's addresses."""
    http_port: int = Field(default=8080, ge=0, le=65535)
    """The HTTP server's port; 0 takes a free one."""
    http_reuse_port: bool = False
    """Whether several HTTP servers of this user may share the address: Linux spreads connections over them."""
    http_traceparent: CallersTraces = "link"
    """What a request's `traceparent` does: its trace goes on here, sampled as it says; or the request's own trace has a
    link to it; or nothing."""
    temporal_ui: HttpUrl | None = None
    """Temporal's UI, for links on the page; None takes that of the running `prebuilds dev`, or has no links."""
    webhook_url: HttpUrl | None = Field(default=None, repr=False)
    """Where operators are notified when a claim has replaced resources; None notifies by log lines alone."""
    webhook_secret: SecretStr | None = None
    """The secrets that sign what the webhook is sent; None sends it unsigned."""
    state_key: SecretStr | None = None
    """The keys that seal the secrets of claims. Drivers read the variable by themselves; it is checked here, so that no
    worker starts with an unusable key."""
    deployment: UUID | None = None
    """The deployment that this process must serve; another one's database or Temporal namespace is refused. None
    accepts whichever deployment the database has."""
    payload_key: SecretStr | None = None
    """The keys that encrypt payloads. The connection to Temporal reads the variable by itself; it is checked here."""

    oidc_issuer: str | None = None
    """The identity provider whose tokens the HTTP server takes, too; None for none."""
    oidc_audience: Annotated[str | None, Field(validate_default=True)] = None
    """Whom the provider's tokens must be meant for."""
    oidc_user_claim: str = Field(default="sub", min_length=1)
    """The claim that is the person's name."""
    oidc_groups_claim: str = Field(default="groups", min_length=1)
    """The claim that lists the person's groups."""
    oidc_scopes: Annotated[str | None, Field(validate_default=True)] = None
    """The scopes of each group, as `parse_group_scopes` reads them."""

    process_uids: str | None = None
    """The user ids of `process` workspaces. The driver reads the variable by itself; it is checked here."""

    @field_validator("oidc_issuer")
    @classmethod
    def _is_issuer(cls, value: str | None) -> str | None:
        return None if value is None else check_address(value)

    @field_validator("oidc_audience", "oidc_scopes")
    @classmethod
    def _goes_with_an_issuer(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("oidc_issuer") is not None:
            raise ValueError("is required with PREBUILDS_OIDC_ISSUER")
        if value is not None and info.field_name == "oidc_scopes":
            parse_group_scopes(value)
        return value

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

    @field_validator("webhook_secret")
    @classmethod
    def _are_webhook_secrets(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_webhook_secrets(value.get_secret_value())
        return value

    @property
    def claim_connections(self) -> int:
        """How many of `database_connections` decide claims, in a process that does. PostgreSQL works best with a few
        connections per core; further claims queue in this process for a millisecond."""
        return min(16, self.database_connections // 2)

    @property
    def other_connections(self) -> int:
        """How many of `database_connections` do everything else."""
        return min(20, self.database_connections - self.claim_connections)

    @property
    def ring(self) -> KeyRing:
        """The keys of `state_key`; a ring without keys when it is not set."""
        return parse_key_ring(self.state_key.get_secret_value() if self.state_key is not None else "")

    @property
    def signer(self) -> Signer:
        """The secrets of `webhook_secret`; a signer without secrets when it is not set."""
        return parse_webhook_secrets(self.webhook_secret.get_secret_value() if self.webhook_secret is not None else "")

    @property
    def oidc(self) -> OidcRules | None:
        """What is expected of the identity provider's tokens; None when there is no provider."""
        if self.oidc_issuer is None or self.oidc_audience is None or self.oidc_scopes is None:
            return None
        return OidcRules(
            issuer=self.oidc_issuer,
            audience=self.oidc_audience,
            user_claim=self.oidc_user_claim,
            groups_claim=self.oidc_groups_claim,
            groups=parse_group_scopes(self.oidc_scopes),
        )

    @property
    def encrypts_payloads(self) -> bool:
        """Whether this process encrypts what it sends through Temporal."""
        return self.payload_key is not None and bool(parse_payload_keys(self.payload_key.get_secret_value()).keys)

    @property
    def rules(self) -> Rules:
        """The settings that planning uses."""
        return Rules(**{field.name: getattr(self, field.name) for field in fields(Rules)})


READ_ELSEWHERE = frozenset(
    (
        *("DATABASE_PASSWORD_FILE", "ENGINE_HOST", "HOST_ID", "LOG_FORMAT", "TERRAFORM", "TOKEN", "URL"),
        *("TEST_DATABASE_URL", "TEST_ENGINE", "TEST_POSTGRES"),
    )
)
"""Variables that other code than `Settings` reads."""
WORKSPACE_VARIABLES = re.compile(r"WORKSPACE_ID|OWNER|OWNER_SLUG|NAME|CLAIM_FILE|USER|USER_ID|(PARAM|CLAIM)_.*")
"""Variables that a workspace's own command gets. A shell inside a workspace has them, and may run our commands."""


def check_names(environment: Mapping[str, str]) -> None:
    """Warn of variables that begin with `PREBUILDS_` and that nothing reads, such as misspelt ones.

    Raises:
        InvalidInput: PREBUILDS_STATE_DIR is empty, as when a script passes an unset variable. It would name the current
            folder.
    """
    if environment.get("PREBUILDS_STATE_DIR", "x").strip() == "":
        raise InvalidInput.field("PREBUILDS_STATE_DIR", "is empty", "name a folder, or unset it for .prebuilds here")
    known = {name.upper() for name in Settings.model_fields} | READ_ELSEWHERE
    for variable in sorted(environment):
        name = variable.upper().removeprefix("PREBUILDS_")
        if not variable.upper().startswith("PREBUILDS_") or name in known or WORKSPACE_VARIABLES.fullmatch(name):
            continue
        if variable in _warned_variables:
            continue
        _warned_variables.add(variable)
        near = get_close_matches(name, known, 1, cutoff=0.75)
        hint = f"did you mean PREBUILDS_{near[0]}?" if near else "it has no effect"
        logger.warning("%s is not a variable of Prebuilds; %s", escape(variable), hint)


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        InvalidInput: Some variables cannot be read; the details say for each how to write it.
    """
    check_names(os.environ)
    try:
        return Settings()
    except ValidationError as error:
        wrong = {f"PREBUILDS_{name.upper()}": message for name, message in field_messages(error).items()}
        raise InvalidInput.fields(wrong, "the environment") from error


def database_url(settings: Settings) -> str:
    """Return the database's URL, from the settings or from the running `prebuilds dev`.

    Raises:
        StackUnreachable: Neither of them names a database.
    """
    url = settings.database_url or read_stack_file(settings.state_dir).get("database_url")
    if not url:
        raise StackUnreachable(
            f"no database is configured (looked for {settings.state_dir / STACK_FILE})",
            remedy="set PREBUILDS_DATABASE_URL, or start `prebuilds dev` here",
        )
    return str(url)


def temporal_address(settings: Settings) -> str | None:
    """Return the embedded Temporal server's address; None when there is none, or the SDK's own variables are set."""
    return embedded_temporal(settings.state_dir)


def temporal_ui(settings: Settings) -> str | None:
    """Return the address of Temporal's UI, without a slash at the end; None when nothing names one."""
    if settings.temporal_ui is not None:
        return str(settings.temporal_ui).rstrip("/")
    found = read_stack_file(settings.state_dir)
    if os.environ.get("TEMPORAL_ADDRESS", found.get("temporal_address")) != found.get("temporal_address"):
        return None  # the embedded server's UI shows nothing of another server
    return str(found.get("temporal_ui") or "").rstrip("/") or None


def embedded_http() -> str | None:
    """Return the address of the HTTP server of the `prebuilds dev` that runs here; None when none does."""
    return read_stack_file(state_dir()).get("http")


def server_token(url: str) -> str | None:
    """Return the token for the HTTP server at *url*: PREBUILDS_TOKEN, or that of the `prebuilds dev` that runs here."""
    return bearer_token(state_dir(), url)
