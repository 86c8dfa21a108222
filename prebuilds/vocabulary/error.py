"""The base of every error that is raised on purpose: what happened, facts for programs, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from prebuilds.vocabulary.plain_text import LINES, escape, escape_all


class PrebuildsError(Exception):
    """A refusal or failure raised on purpose. Its class name is its public type.

    Its text is the message and the remedy together, for logs and for clients in other languages. What it quotes of
    others (a driver, a server, a file) is escaped.

    Attributes:
        retryable: Whether the same request may succeed later without anybody changing it: a caller may send it again.
        decided: Whether it is the outcome of a request rather than a failure to decide it. It is recorded as the
            request's answer, and Temporal does not repeat the activity, also when a new request may succeed.
        default_remedy: What to do where the code that raises it knows nothing better.
        says_default: Whether the text has the default remedy, too. Not where the message says as much.
        message: What happened, to what, and why.
        details: Facts for programs: field -> message for bad input, `miss_reason`, ids.
        advice: The remedy that was given when it was raised; None for the default one.
        inputs: Fields of the request that the advice is about -> the value to give; empty for no certain one.
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
        """An error about one field: *message* says what is wrong with it, or what it must be."""
        return cls(f"{name}: {message}", {name: message}, remedy=remedy, inputs=inputs)

    @classmethod
    def fields(cls, details: Mapping[str, str], what: str | None = None) -> Self:
        """An error about some fields of *what* was given, such as `claim`."""
        text = "; ".join(f"{name}: {message}" for name, message in details.items())
        return cls(text if what is None else f"{what} is not valid: {text}", details)

    @property
    def type(self) -> str:
        return type(self).__name__

    @property
    def repeated(self) -> bool:
        """Whether Temporal repeats the activity that raised it."""
        return self.retryable and not self.decided

    @property
    def remedy(self) -> str:
        """What to do, in the words of the request's fields; empty only where nobody can do anything."""
        return self.remedy_by(lambda field: field)

    @property
    def general_remedy(self) -> str:
        """The remedy without the fields and values that it is about."""
        return self._usual_remedy() if self.advice is None else self.advice

    def remedy_by(self, name: Callable[[str], str]) -> str:
        """The remedy, with each field of the request called by *name*."""
        given = ", ".join(f"{name(field)} {value}".rstrip() for field, value in self.inputs.items())
        return f"{self.general_remedy} ({given})" if given else self.general_remedy

    def text(self, message: str, name: Callable[[str], str]) -> str:
        """*message*, and what of the remedy it does not say, with each field of the request called by *name*."""
        remedy = self.remedy_by(name) if self.says_default or self.advice is not None else ""
        if not remedy:
            return message
        return f"{message}\n{remedy}" if "\n" in message else f"{message}; {remedy}"

    def __str__(self) -> str:
        return self.text(self.message, lambda field: field)

    def hide(self, mask: Callable[[str], str]) -> None:
        """Change every text of the error as *mask* says, such as to hide a secret that somebody's words repeat."""
        self.message = mask(self.message)
        self.args = (self.message,)
        self.details = {key: mask(value) if isinstance(value, str) else value for key, value in self.details.items()}
        self.advice = None if self.advice is None else mask(self.advice)

    def _usual_remedy(self) -> str:
        return self.default_remedy
