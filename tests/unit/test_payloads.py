"""Payloads and views as packages of models."""

from __future__ import annotations

from types import ModuleType

import pytest
from pydantic import BaseModel

from prebuilds import payloads, views


@pytest.mark.parametrize("package", [payloads, views])
def test_every_model_is_whole_once_it_is_imported(package: ModuleType) -> None:
    """A model with a reference to a later class is built at its first use, which may be within a workflow's sandbox."""
    models = [each for each in vars(package).values() if isinstance(each, type) and issubclass(each, BaseModel)]
    assert [model.__name__ for model in models if not model.__pydantic_complete__] == []
    assert len(models) > 10
