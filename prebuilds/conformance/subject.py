"""What is examined: a driver, and a small source that works for it."""

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
"""Terraform is given 10 s to end what it is at; a person who cancels waits no longer than this."""
CUTS = 5
"""Moments of one call at which it is cancelled or killed, spread over it: each costs about two calls."""


class Violation(Exception):
    """The driver broke a promise. The message says which, and what was seen."""


class Skipped(Exception):
    """This check says nothing about this driver. The message says why."""


@dataclass(frozen=True)
class Subject:
    driver: Callable[[Path, UUID], Provisioner]
    """The class: called with a folder for its state and the deployment's id. Found again by its module and name in a
    process to be killed."""
    source: Mapping[str, Any] | None = None
    """A template's source that works here; None: the driver's own `conformance_source`."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    prompt_s: float = PROMPT_S
    """How long a cancelled call may take to end."""
    ready_timeout_s: float = 60.0
    cuts: int = CUTS

    def working_source(self) -> dict[str, Any]:
        """The source to examine it with.

        Raises:
            InvalidInput: Neither was one given, nor does the driver bring one.
        """
        source = self.source if self.source is not None else getattr(self.driver, "conformance_source", None)
        if source is None:
            raise InvalidInput.field(
                "source", f"{self.reference} has no conformance_source; give a small source that works (--source FILE)"
            )
        return dict(source)

    @property
    def reference(self) -> str:
        return f"{self.driver.__module__}:{getattr(self.driver, '__qualname__', self.driver)}"


def subject_named(name: str, source: Mapping[str, Any] | None = None) -> Subject:
    """The installed driver *name*.

    Raises:
        InvalidSource: No such driver is installed here.
    """
    for entry in entry_points(group=GROUP, name=name):
        return Subject(entry.load(), source)
    message = f"no provisioner {name} is installed; known are {', '.join(known())}"
    raise InvalidSource(f"provisioner: {message}", {"provisioner": message})


def expect(holds: bool, otherwise: str) -> None:
    """Raises:
    Violation: It does not hold.
    """
    if not holds:
        raise Violation(otherwise)
