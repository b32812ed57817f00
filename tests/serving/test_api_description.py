"""The examples in GET /openapi.json fit their schemas, and are what the server takes and returns."""

import json
from typing import Any

import pytest
from helpers import Server
from jsonschema import Draft202012Validator

from sagehound.serving.api_examples import operations

TEXTS = ("application/json", "application/jsonlines", "text/csv", "text/plain")
UNSENT = ("/models", "/models/{name}/feedback")  # a path of another machine; this server keeps no feedback


@pytest.fixture(scope="module")
def description(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.request("GET", "/openapi.json").json()
    return found


def test_every_body_of_json_or_text_has_an_example_that_fits_its_schema(description: dict[str, Any]) -> None:
    checked = 0
    for method, path, operation in operations(description):
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for media, content in ((m, c) for body in bodies for m, c in body.get("content", {}).items() if m in TEXTS):
            assert "example" in content, (method, path, media)
            schema = content.get("schema", {}) | {"components": description["components"]}
            Draft202012Validator(schema).validate(content["example"])
            checked += 1
    assert checked > 80


def test_the_examples_of_requests_are_answered_as_the_examples_of_responses(
    server: Server, description: dict[str, Any]
) -> None:
    sent = 0
    for method, path, operation in operations(description):
        if path in UNSENT or method == "delete":
            continue
        address = path.replace("{name}", "run").replace("{number}", "0")
        for media, content in operation.get("requestBody", {}).get("content", {"": {}}).items():
            if media and "example" not in content:
                continue
            example = content.get("example")
            body = example.encode() if isinstance(example, str) else json.dumps(example).encode() if media else None
            answer = server.request(method.upper(), address, body, Content_Type=media)
            if "samples" in path:
                assert answer.status == 404
                continue
            assert answer.status == 200, (path, answer.data)
            told = operation["responses"]["200"]["content"]
            kind = answer.headers["Content-Type"].partition(";")[0]
            assert kind in told
            if kind == "application/json" and media != "application/jsonlines":
                assert answer.json().keys() == told[kind]["example"].keys(), path
            sent += 1
    assert sent > 15
