"""The OpenAPI document: complete for every route, with an example of every error, and checked with Schemathesis."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from api_client import asgi_app
from starlette.testclient import TestClient

from graft.service.api import schemas
from graft.service.api.schemas import PROBLEMS, Problem
from graft.service.http.description.document import document
from graft.service.http.description.errors import possible_codes
from graft.service.http.description.examples import EXAMPLES
from graft.service.http.openapi import build_routes
from graft.service.http.routes import ALIASES
from graft.service.settings import Settings

HERE = Path(__file__).parents[2] / "support"
ROUTES = {path: route for path, route in build_routes().items() if route.tag}
DOCUMENT = document(ROUTES.values(), Settings())
RESPONSES = {route.path: DOCUMENT["paths"][route.path][route.method.lower()]["responses"] for route in ROUTES.values()}
OPERATIONS = [operation for methods in DOCUMENT["paths"].values() for operation in methods.values()]


@pytest.fixture(scope="module")
def client():
    with asgi_app(None) as app, TestClient(app) as client:
        yield client


def test_every_path_is_described(client):
    assert set(client.get("/docs.json").json()["paths"]) == set(ROUTES)


@pytest.mark.parametrize("path", ["/openapi.json", "/docs.json"])
def test_document_is_served_where_tools_look_for_it(client, path):
    assert client.get(path).json() == client.get("/docs.json").json()
    assert client.get(path).headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("path", ["/redoc", "/swagger"])
def test_usual_paths_lead_to_the_page(client, path):
    response = client.get(path, follow_redirects=False)
    assert (response.status_code, response.headers["Location"]) == (307, "docs")
    assert client.get(path).text == client.get("/docs").text


def test_aliases_are_described_like_their_originals():
    for alias, original in ALIASES.items():
        described, expected = DOCUMENT["paths"][alias]["post"], DOCUMENT["paths"][original]["post"]
        own = {"operationId": "", "tags": [], "description": ""}
        assert described | own == expected | own


def test_names_of_operations_are_unique():
    names = [operation["operationId"] for operation in OPERATIONS]
    assert len(set(names)) == len(names)
    assert {"classify", "classify_batch", "explain", "find_similar", "embed", "get_model", "list_labels"} <= set(names)


def test_every_operation_has_a_tag_a_summary_and_a_description():
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for operation in OPERATIONS:
        assert set(operation["tags"]) <= tags
        assert operation["summary"]
        assert operation["description"]


def test_every_problem_code_has_an_example():
    assert {code for route in ROUTES.values() for code in possible_codes(route)} == set(PROBLEMS) - {"not_found"}
    for path, responses in RESPONSES.items():
        codes = [
            code
            for status, response in responses.items()
            if status != "200"
            for code in response["content"]["application/problem+json"]["examples"]
        ]
        assert sorted(codes) == sorted(possible_codes(ROUTES[path]))


@pytest.mark.parametrize("path", RESPONSES)
def test_examples_have_the_status_of_their_response(path):
    for status, response in RESPONSES[path].items():
        for code, example in response["content"].get("application/problem+json", {}).get("examples", {}).items():
            problem = Problem.model_validate(example["value"])
            assert (problem.code, str(problem.status)) == (code, status)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_responses_are_valid(name):
    model = getattr(schemas, name)
    assert model.model_validate(EXAMPLES[name]).model_dump(mode="json", exclude_none=name == "Problem")
    assert DOCUMENT["components"]["schemas"][name]["examples"] == [EXAMPLES[name]]


def schemas_in(value: Any) -> list[dict[str, Any]]:
    """Every dictionary below a value."""
    if isinstance(value, list):
        return [found for item in value for found in schemas_in(item)]
    if not isinstance(value, dict):
        return []
    return [value, *(found for item in value.values() for found in schemas_in(item))]


def test_no_schema_has_what_generators_stumble_over():
    for schema in schemas_in(DOCUMENT):
        assert schema.get("schema", {}) is not None
        assert not {"prefixItems", "propertyNames", "const"} & set(schema)
        variants = schema.get("anyOf", [])
        assert all("$ref" in variant or "enum" in variant or variant == {"type": "null"} for variant in variants)


def test_options_are_query_parameters_with_bounds():
    parameters = {parameter["name"]: parameter for parameter in DOCUMENT["paths"]["/v1/classify"]["post"]["parameters"]}
    assert parameters["top_k"]["schema"] == {"type": "integer", "minimum": 1, "default": 5}
    bounds = {"minimum": 0, "maximum": 1, "default": 0.0}
    assert parameters["threshold"]["schema"] == {"type": "number", "format": "double", **bounds}


def test_first_request_body_is_a_form():
    content = DOCUMENT["paths"]["/v1/classify"]["post"]["requestBody"]["content"]
    assert list(content) == ["multipart/form-data", "application/octet-stream"]


def test_servers_are_relative_to_the_document():
    assert [server["url"] for server in DOCUMENT["servers"]] == ["."]


def test_key_is_described_only_if_one_is_set():
    protected = document(ROUTES.values(), Settings(api_key="0123456789abcdef"))
    assert protected["security"] == [{"key": []}]
    assert protected["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert protected["paths"]["/livez"]["get"]["security"] == []
    assert "security" not in protected["paths"]["/v1/classify"]["post"]
    assert not {"security", "securitySchemes"} & {*DOCUMENT, *DOCUMENT["components"]}


def test_largest_batch_is_that_of_the_settings():
    form = document(ROUTES.values(), Settings(max_batch_images=3))["components"]["schemas"]["ImagesForm"]
    assert form["properties"]["images"]["maxItems"] == 3


def _run_schemathesis(url: str, n_examples: int, folder: Path) -> str:
    """The output of `st run` with all checks. tests/support/schemathesis_hooks.py generates images, which a schema cannot."""
    program, config = Path(sys.executable).parent / "st", HERE / "schemathesis.toml"
    command = [program, "--config-file", config, "--no-color", "run", f"{url}/docs.json", "--checks", "all", "--seed", "1"]
    settings = os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)}
    done = subprocess.run(
        [*command, "--max-examples", str(n_examples)], capture_output=True, text=True, env=settings, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_service_conforms_to_its_document(server, tmp_path):
    assert "No issues found" in _run_schemathesis(server, 15, tmp_path)


@pytest.mark.nightly
def test_service_conforms_to_its_document_with_many_examples(server, tmp_path):
    assert "No issues found" in _run_schemathesis(server, 200, tmp_path)
