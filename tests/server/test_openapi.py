"""The API against its own description: schemathesis makes requests up, right ones and wrong ones.

RJPEG_API_EXAMPLES=2000 tries so many of each kind in the release test.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

import rjpeg
from tests.service import Service, make_token

EXAMPLES = int(os.environ.get("RJPEG_API_EXAMPLES", "200"))
ENDLESS = r"/v1/events|/stream$"
# one line for each operation, parameter, body, answer and property, without descriptions
DESCRIBED = Path(__file__).with_name("openapi.txt")


class Api:
    """A service that wants tokens, with a frame of camera `cam`, and the tokens that its operations need."""

    def __init__(self, folder, jpeg):
        (folder / "server.yaml").write_text("limits: {frames_per_second: 10000, cameras: 100000}")
        data = folder / "data"
        self.camera, self.reader = make_token(data, "--camera", "cam"), make_token(data, "--reader")
        self.manager = make_token(data, "--manager")
        self.service = Service("--auth", "on", "--config", folder / "server.yaml", data=data)
        headers = {"Content-Type": "image/jpeg", "Authorization": f"Bearer {self.camera}"}
        for _ in range(3):
            requests.post(self.service.post_url(), data=jpeg, headers=headers, timeout=30).raise_for_status()
        schemathesis.openapi.media_type("image/jpeg", some.just(jpeg) | some.binary())
        packed = rjpeg.pack_importance(np.zeros((3, 4), np.float32), 1)
        schemathesis.openapi.media_type("application/octet-stream", some.just(packed) | some.binary())
        self.schema = schemathesis.openapi.from_url(self.service.url + "/openapi.json").exclude(path_regex=ENDLESS)

    def operations(self):
        """All operations by name, each with its description."""
        found = {}
        for result in self.schema.get_all_operations():
            operation = result.ok()
            found[f"{operation.method.upper()} {operation.path}"] = operation
        return found

    def try_out(self, operation, mode, examples):
        """Make requests up and hold the answers against the description."""

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def check(case):
            sends = case.operation.path.endswith("/frames") and case.method.upper() == "POST"
            if "camera" in (case.path_parameters or {}) and mode is GenerationMode.POSITIVE:
                # names that no camera has are answered 404 and tell nothing
                case.path_parameters["camera"] = "cam"
            manages = case.method.upper() == "PUT"
            token = self.camera if sends else self.manager if manages else self.reader
            headers = {"Authorization": f"Bearer {token}"}
            answer = case.call(headers=headers, timeout=30)
            # what no description says: whether bytes are a whole JPEG, metrics JSON, one time before another, and what
            # version is the newest
            told = answer.status_code == 400 and " must be " in answer.json()["error"]
            excluded = [positive_data_acceptance] if told or answer.status_code in (412, 422) else []
            if answer.status_code == 413:
                # a refusal as well, which is not on the list
                excluded = [negative_data_rejection]
            case.validate_response(answer, excluded_checks=excluded)
            if answer.status_code >= 400:
                assert isinstance(answer.json()["error"], str)

        check()


@pytest.fixture(scope="module")
def api(tmp_path_factory, jpeg):
    found = Api(tmp_path_factory.mktemp("api"), jpeg)
    yield found
    assert found.service.stop() == 0
    assert "Traceback" not in "".join(found.service.messages)


OPERATIONS = [
    "POST /v1/cameras/{camera}/frames",
    "GET /v1/cameras",
    "GET /v1/cameras/{camera}",
    "GET /v1/cameras/{camera}/frames",
    "GET /v1/cameras/{camera}/frames/{frame}",
    "GET /v1/cameras/{camera}/frames/{frame}/jpeg",
    "GET /v1/cameras/{camera}/frames/{frame}/picture",
    "GET /v1/cameras/{camera}/frames/{frame}/map",
    "GET /v1/cameras/{camera}/frames/{frame}/map.png",
    "GET /v1/cameras/{camera}/frames/{frame}/results",
    "GET /v1/cameras/{camera}/timeline",
    "GET /v1/cameras/{camera}/bandwidth",
    "GET /v1/cameras/{camera}/snapshot",
    "GET /v1/cameras/{camera}/link",
    "GET /v1/cameras/{camera}/clip",
    "GET /v1/cameras/{camera}/alerts",
    "DELETE /v1/cameras/{camera}",
    "GET /v1/cameras/{camera}/importance",
    "PUT /v1/cameras/{camera}/importance",
    "GET /v1/cameras/{camera}/zones",
    "PUT /v1/cameras/{camera}/zones",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    "POST /v1/session",
    "DELETE /v1/session",
]


@pytest.mark.slow
def test_the_description_names_every_operation_with_answers_examples_and_errors(api):
    document = requests.get(api.service.url + "/openapi.json", timeout=10).json()
    described = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(OPERATIONS) | {"GET /v1/events", "GET /v1/cameras/{camera}/stream"} == set(described)
    for name, operation in described.items():
        assert operation["summary"], name
        assert operation["description"], name
        statuses = set(operation["responses"])
        assert {"400", "500"} <= statuses, name
        if name.partition(" ")[2] not in ("/healthz", "/readyz", "/v1/session"):
            assert {"401", "403"} <= statuses, name
            assert operation["security"], name
        for status, answer in operation["responses"].items():
            assert answer["description"], (name, status)
            if status >= "400":
                kind = "/KeyMissing" if (status, name[:4]) == ("409", "POST") else "/Error"
                assert answer["content"]["application/json"]["schema"]["$ref"].endswith(kind), (name, status)
            if status == "429":
                assert "Retry-After" in answer["headers"]
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), (name, parameter["name"])
    schemas = document["components"]["schemas"]
    assert all(schemas[name].get("examples") for name in ("Frame", "Map", "Error"))
    assert "HTTPValidationError" not in schemas


def plain(schema):
    """A schema on one line, without what is for people alone."""
    if isinstance(schema, dict):
        ignored = ("description", "title", "examples")
        return {key: plain(value) for key, value in sorted(schema.items()) if key not in ignored}
    return [plain(each) for each in schema] if isinstance(schema, list) else schema


def lines_of(document):
    """What programs rely on, a line each."""
    for path, operations in sorted(document["paths"].items()):
        for method, operation in sorted(operations.items()):
            security = " or ".join(name for each in operation.get("security", []) for name in each) or "nothing"
            yield f"{method.upper()} {path}: {operation['operationId']}, {operation['tags']}, needs {security}"
            for each in operation.get("parameters", []):
                needed = "required" if each["required"] else "optional"
                yield f"  {each['in']} {each['name']}, {needed}: {json.dumps(plain(each['schema']))}"
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                yield f"  body {media_type}: {json.dumps(plain(content['schema']))}"
            for status, answer in sorted(operation["responses"].items()):
                headers = "".join(f", {name}" for name in sorted(answer.get("headers", {})))
                contents = {
                    kind: plain(content.get("schema", {})) for kind, content in answer.get("content", {}).items()
                }
                yield f"  {status}{headers}: {json.dumps(contents)}"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield f"{name}: additional properties {schema.get('additionalProperties', 'not mentioned')}"
        for key, value in schema["properties"].items():
            needed = "required" if key in schema.get("required", []) else "optional"
            yield f"  {key}, {needed}: {json.dumps(plain(value))}"
    for name, scheme in sorted(document["components"]["securitySchemes"].items()):
        yield f"{name}: {json.dumps(plain(scheme))}"


@pytest.mark.slow
def test_what_programs_rely_on_has_not_changed(api, tmp_path):
    lines = list(lines_of(requests.get(api.service.url + "/openapi.json", timeout=10).json()))
    (tmp_path / DESCRIBED.name).write_text("".join(f"{line}\n" for line in lines))
    assert lines == DESCRIBED.read_text().splitlines(), f"if that is meant, take {tmp_path / DESCRIBED.name}"


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_answers_are_as_they_are_described(api, name, mode):
    try_out(api, name, mode, 15)


@pytest.mark.release
@pytest.mark.timeout(60 + EXAMPLES)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_answers_are_as_they_are_described_for_long(api, name, mode):
    try_out(api, name, mode, EXAMPLES)


def try_out(api, name, mode, examples):
    operation = api.operations()[name]
    if mode is GenerationMode.NEGATIVE and not (operation.path_parameters or operation.query or operation.body):
        pytest.skip("there is nothing that could be wrong")
    api.try_out(operation, mode, examples)
