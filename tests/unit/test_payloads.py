"""Payloads and views as packages of models."""

from __future__ import annotations

from types import ModuleType

import pytest
from pydantic import BaseModel

from prebuilds import payloads, views
from prebuilds.payloads import build_validators


@pytest.mark.parametrize("package", [payloads, views])
def test_every_model_is_whole_once_a_worker_has_built_all(package: ModuleType) -> None:
    """Otherwise a model is built at its first use, possibly within a workflow's sandbox."""
    build_validators()
    models = [each for each in vars(package).values() if isinstance(each, type) and issubclass(each, BaseModel)]
    assert [model.__name__ for model in models if not model.__pydantic_complete__] == []
    assert len(models) > 10
