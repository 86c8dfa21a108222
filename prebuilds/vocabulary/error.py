"""The base class of all errors raised on purpose. An error has a message, details for programs, and a remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from prebuilds.vocabulary.plain_text import LINES, escape, escape_all


class PrebuildsError(Exception):
    """A refusal or failure raised on purpose. Its class name is its public type.

    Its text is the message followed by the remedy, for logs and for clients in other languages. Text quoted from other
    sources (a driver, a server, a file) is escaped.

    Attributes:
        retryable: True if the same request may succeed later, so that a caller may send it again unchanged.
        decided: True if the error is the outcome of a request, not a failure to decide it. It is then recorded as the
            request's answer, and Temporal does not retry the activity even if the error is retryable.
        default_remedy: What to do, unless the code that raises the error gives a better remedy.
        says_default: True if the text includes the default remedy. False if the message already says as much.
        message: What happened, to what, and why.
        details: Facts for programs: field -> message for bad input, `miss_reason`, ids.
        advice: The remedy given by the code that raised the error; None for the default remedy.
        inputs: Field of the request -> value, which the remedy suggests; an empty value suggests none in particular.
    """

    retryable = False
    decided = False
    default_remedy: ClassVar[str] = ""
    says_default = True

    def __init__(
        self,
        message: str,
        details: Mapping[str, Any] | None = None,
        *,
        remedy: str | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> None:
        self.message = escape(message, keep=LINES)
        super().__init__(self.message)
        self.details: dict[str, Any] = escape_all(details or {}, keep=LINES)
        self.advice = None if remedy is None else escape(remedy, keep=LINES)
        self.inputs: dict[str, str] = escape_all(inputs or {})

    @classmethod
    def field(
        cls, name: str, message: str, remedy: str | None = None, *, inputs: Mapping[str, str] | None = None
    ) -> Self:
        """Make an error about one field; *message* says what is wrong with it, or what it must be."""
        return cls(f"{name}: {message}", {name: message}, remedy=remedy, inputs=inputs)

    @classmethod
    def fields(cls, details: Mapping[str, str], what: str | None = None) -> Self:
        """Make an error about several fields.

        Args:
            details: Field -> what is wrong with it, or what it must be.
            what: The input that has the fields, such as `claim`; None leaves it out of the message.
        """
        text = "; ".join(f"{name}: {message}" for name, message in details.items())
        return cls(text if what is None else f"{what} is not valid: {text}", details)

    @property
    def type(self) -> str:
        """The public type: the name of the class."""
        return type(self).__name__

    @property
    def repeated(self) -> bool:
        """True if Temporal retries an activity that raised the error."""
        return self.retryable and not self.decided

    @property
    def remedy(self) -> str:
        """What to do, with the names of the request's fields; empty only if nobody can do anything."""
        return self.remedy_by(lambda field: field)

    @property
    def general_remedy(self) -> str:
        """The remedy without the suggested fields and values."""
        return self._make_default_remedy() if self.advice is None else self.advice

    def remedy_by(self, name: Callable[[str], str]) -> str:
        """Return the remedy with each field of the request replaced by *name* of it."""
        suggested = ", ".join(f"{name(field)} {value}".rstrip() for field, value in self.inputs.items())
        return f"{self.general_remedy} ({suggested})" if suggested else self.general_remedy

    def text(self, message: str, name: Callable[[str], str]) -> str:
        """Return *message* followed by the remedy, if the text includes it, with fields replaced as by `remedy_by`."""
        remedy = self.remedy_by(name) if self.says_default or self.advice is not None else ""
        if not remedy:
            return message
        return f"{message}\n{remedy}" if "\n" in message else f"{message}; {remedy}"

    def __str__(self) -> str:
        return self.text(self.message, lambda field: field)

    def hide(self, mask: Callable[[str], str]) -> None:
        """Replace every text of the error by *mask* of it, for instance to hide a secret that a quoted text repeats."""
        self.message = mask(self.message)
        self.args = (self.message,)
        self.details = {key: mask(value) if isinstance(value, str) else value for key, value in self.details.items()}
        self.advice = None if self.advice is None else mask(self.advice)

    def _make_default_remedy(self) -> str:
        return self.default_remedy
