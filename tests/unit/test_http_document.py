"""The OpenAPI document: it is valid, and each route says what it answers, with an example that fits its model."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from jsonschema_rs import Draft202012Validator

from prebuilds.http import examples
from prebuilds.http.app import create_app
from prebuilds.views import EventRecord

WITHOUT_TOKEN = {"healthz", "readyz"}
CLAIMING = {"put_claim", "post_claim"}
PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    nothing: Any = type("Nothing", (), {})()
    app: FastAPI = create_app(nothing, nothing)
    return app.openapi()


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["operationId"]: one for path in document["paths"].values() for one in path.values()}


def test_the_openapi_document_is_valid(document: dict[str, Any]) -> None:
    schemathesis.openapi.from_dict(document).validate()


def test_each_route_says_what_it_is_and_what_it_answers(document: dict[str, Any]) -> None:
    paths = sum(len(path) for path in document["paths"].values())
    assert len(operations(document)) == paths, "each has an id of its own"
    for name, operation in operations(document).items():
        assert operation["summary"], name
        assert operation["description"], name
        if name in WITHOUT_TOKEN:
            continue
        assert operation["security"] == [{"HTTPBearer": []}], name
        answers = operation["responses"]
        wanted = {"401", "403", "422", "429", "503"}
        if "requestBody" in operation:
            wanted.add("413")
        if any(parameter["in"] == "path" for parameter in operation.get("parameters", [])):
            wanted.add("404")
        assert wanted <= answers.keys(), name
        assert "500" in answers, name
        for status, answer in answers.items():
            assert answer["description"], (name, status)
            assert ("Retry-After" in answer["headers"]) == (status in {"429", "503"}), (name, status)
            assert ("RateLimit" in answer["headers"]) == (status not in {"401", "408", "413"}), (name, status)
            assert ("Location" in answer["headers"]) == (name in CLAIMING and status[0] == "2"), (name, status)
            if int(status) >= 400:
                assert answer["content"] == PROBLEM, (name, status)


def test_each_answer_and_each_body_has_an_example_that_fits_its_model(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        places = [content for status, content in contents(operation) if int(status) < 300]
        for kind, content in [pair for place in places for pair in place.items()]:
            if "json" not in kind or name in WITHOUT_TOKEN:
                continue
            found = content.get("examples") or content["schema"].get("examples") or content.get("example")
            if found is None and "$ref" in content["schema"]:  # the examples stand at the model's fields
                model = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
                assert any("examples" in field for field in model["properties"].values()), (name, kind)
                continue
            assert found is not None, (name, kind)
            given = [content["example"]] if "example" in content else values(found)
            validator = Draft202012Validator({**content["schema"], "components": document["components"]})
            for example in given:
                validator.validate(example)


def values(found: Any) -> list[Any]:
    return [one["value"] for one in found.values()] if isinstance(found, dict) else list(found)


def contents(operation: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The contents of an operation's answers, by status, and of its body, as status 0."""
    answers = [(status, answer.get("content", {})) for status, answer in operation["responses"].items()]
    return [*answers, ("0", operation.get("requestBody", {}).get("content", {}))]


def test_the_example_of_a_stream_fits_its_model() -> None:
    assert EventRecord.model_validate(examples.EVENT_RECORD)
