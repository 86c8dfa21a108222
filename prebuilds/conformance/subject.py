"""The subject of an examination: a driver, and a small source that works for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from uuid import UUID

from prebuilds.api import InvalidInput
from prebuilds.provisioners import GROUP, known
from prebuilds.provisioners.base import InvalidSource, Provisioner

PROMPT_S = 15.0
"""How long a person who cancels may have to wait. Terraform alone has 10 s to complete its present resource."""
CUTS = 5
"""Number of moments at which a call is cancelled or killed. Each costs about two calls."""


class Violation(Exception):
    """The driver broke a promise. The message says which, and what was seen."""


class Skipped(Exception):
    """This check says nothing about this driver. The message says why."""


@dataclass(frozen=True)
class Subject:
    """A driver with what the checks need."""

    driver: Callable[[Path, UUID], Provisioner]
    """The driver's class, called with a state folder and the deployment's id. The processes that are killed import it
    by module and name."""
    source: Mapping[str, Any] | None = None
    """A template's source that works here; None: the driver's `conformance_source`."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    prompt_s: float = PROMPT_S
    """How long a cancelled call may take to end, in seconds."""
    ready_timeout_s: float = 60.0
    cuts: int = CUTS

    def working_source(self) -> dict[str, Any]:
        """Return the source to examine the driver with.

        Raises:
            InvalidInput: None was given, and the driver has no `conformance_source`.
        """
        source = self.source if self.source is not None else getattr(self.driver, "conformance_source", None)
        if source is None:
            raise InvalidInput.field(
                "source",
                f"{self.reference} has no conformance_source",
                "give a small source that works (--source FILE)",
            )
        return dict(source)

    @property
    def reference(self) -> str:
        """`MODULE:CLASS` of the driver."""
        return f"{self.driver.__module__}:{getattr(self.driver, '__qualname__', self.driver)}"


def subject_named(name: str, source: Mapping[str, Any] | None = None) -> Subject:
    """Return the installed driver *name* as a subject.

    Args:
        source: See `Subject.source`.
    Raises:
        InvalidSource: No such driver is installed here.
    """
    for entry in entry_points(group=GROUP, name=name):
        return Subject(entry.load(), source)
    remedy = f"install it on this host, or name one of {', '.join(known())}"
    raise InvalidSource.field("provisioner", f"no provisioner {name} is installed here", remedy)


def expect(holds: bool, otherwise: str) -> None:
    """Raise `Violation` with the message *otherwise*, unless *holds*."""
    if not holds:
        raise Violation(otherwise)
