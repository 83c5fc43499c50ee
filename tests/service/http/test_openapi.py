"""The OpenAPI document: complete for every route, with an example of every error, and checked with Schemathesis."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from api_client import asgi_app
from starlette.testclient import TestClient

from graft.service.api.schemas import PROBLEMS, Problem
from graft.service.http.openapi import build_routes, document, possible_codes
from graft.service.http.routes import ALIASES

HERE = Path(__file__).parents[2] / "support"
ROUTES = {path: route for path, route in build_routes().items() if route.include_in_schema}
RESPONSES = {route.path: document([route])["paths"][route.path][route.method.lower()]["responses"] for route in ROUTES.values()}


@pytest.fixture(scope="module")
def openapi() -> dict:
    with asgi_app(None) as app, TestClient(app) as client:
        return client.get("/docs.json").json()


def test_every_path_is_described(openapi):
    assert set(openapi["paths"]) == set(ROUTES)


def test_aliases_are_described_like_their_originals(openapi):
    for alias, original in ALIASES.items():
        described, expected = openapi["paths"][alias]["post"], openapi["paths"][original]["post"]
        assert {**described, "operationId": ""} == {**expected, "operationId": ""}


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


def test_options_are_query_parameters_with_bounds(openapi):
    parameters = {parameter["name"]: parameter for parameter in openapi["paths"]["/v1/classify"]["post"]["parameters"]}
    assert parameters["top_k"]["schema"] == {"type": "integer", "minimum": 1, "default": 5}
    assert parameters["threshold"]["schema"] == {"type": "number", "minimum": 0, "maximum": 1, "default": 0.0}


def test_request_bodies_are_described(openapi):
    content = openapi["paths"]["/v1/classify"]["post"]["requestBody"]["content"]
    assert list(content) == ["image/*", "application/octet-stream", "multipart/form-data", "application/json"]


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
