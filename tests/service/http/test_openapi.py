"""The OpenAPI document: true for every route, with an example of every error; and Schemathesis' opinion of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from api_client import mounted
from starlette.testclient import TestClient

from graft.service.api.schemas import PROBLEMS, Problem
from graft.service.http.openapi import document, possible, table
from graft.service.http.routes import TWINS

HERE = Path(__file__).parents[2] / "support"
ROUTES = {path: route for path, route in table().items() if route.shown}
RESPONSES = {route.path: document([route])["paths"][route.path][route.method.lower()]["responses"] for route in ROUTES.values()}


@pytest.fixture(scope="module")
def told() -> dict:
    with mounted(None) as app, TestClient(app) as client:
        return client.get("/docs.json").json()


def test_every_path_is_described(told):
    assert set(told["paths"]) == set(ROUTES)


def test_bentomls_names_are_described_like_their_twins(told):
    for twin, original in TWINS.items():
        described, expected = told["paths"][twin]["post"], told["paths"][original]["post"]
        assert {**described, "operationId": ""} == {**expected, "operationId": ""}


def test_every_code_can_be_met_somewhere_and_has_an_example_there():
    assert {code for route in ROUTES.values() for code in possible(route)} == set(PROBLEMS) - {"not_found"}
    for path, responses in RESPONSES.items():
        shown = [
            code
            for status, response in responses.items()
            if status != "200"
            for code in response["content"]["application/problem+json"]["examples"]
        ]
        assert sorted(shown) == sorted(possible(ROUTES[path]))


@pytest.mark.parametrize("path", RESPONSES)
def test_every_example_is_a_problem_of_the_status_it_stands_under(path):
    for status, response in RESPONSES[path].items():
        for code, example in response["content"].get("application/problem+json", {}).get("examples", {}).items():
            problem = Problem.model_validate(example["value"])
            assert (problem.code, str(problem.status)) == (code, status)


def test_options_are_parameters_with_their_bounds(told):
    parameters = {each["name"]: each for each in told["paths"]["/v1/classify"]["post"]["parameters"]}
    assert parameters["top_k"]["schema"] == {"type": "integer", "minimum": 1, "default": 5}
    assert parameters["threshold"]["schema"] == {"type": "number", "minimum": 0, "maximum": 1, "default": 0.0}


def test_every_way_to_send_an_image_is_described(told):
    content = told["paths"]["/v1/classify"]["post"]["requestBody"]["content"]
    assert list(content) == ["image/*", "application/octet-stream", "multipart/form-data", "application/json"]


def _tested(url: str, n_examples: int, folder: Path) -> str:
    """What `st run` says with all its checks. The images come from tests/support/schemathesis_hooks.py: no schema can say what one is."""
    program, config = Path(sys.executable).parent / "st", HERE / "schemathesis.toml"
    command = [program, "--config-file", config, "--no-color", "run", f"{url}/docs.json", "--checks", "all", "--seed", "1"]
    settings = os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)}
    done = subprocess.run(
        [*command, "--max-examples", str(n_examples)], capture_output=True, text=True, env=settings, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout


def test_the_service_does_what_its_document_says(server, tmp_path):
    assert "No issues found" in _tested(server, 15, tmp_path)


@pytest.mark.nightly
def test_the_service_does_what_its_document_says_however_it_is_asked(server, tmp_path):
    assert "No issues found" in _tested(server, 200, tmp_path)
