"""What the manifests name exists: ports, probes, settings, users, metrics. A cluster would notice only at night."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_client import mounted
from starlette.testclient import TestClient
from test_docker_image import environment, instructions, only

from graft.service.http.openapi import table
from graft.service.http.routes import PROBES
from graft.service.lifecycle import NOTICE_S
from graft.service.settings import PREFIX, Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
KINDS = {found["kind"]: found for found in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
POD = KINDS["Deployment"]["spec"]["template"]
[CONTAINER] = POD["spec"]["containers"]
GIVEN = {variable["name"]: variable["value"] for variable in CONTAINER["env"]}
[SCRAPE] = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
RULES = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"][0]["rules"]
SELECTOR = re.compile(r"(graft_\w+)(?:\{([^}]*)\})?")


def test_there_is_everything_that_a_rollout_and_a_drain_need():
    assert set(KINDS) == {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"}


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_every_probe_asks_a_route_that_needs_no_key(probe):
    asked = CONTAINER[probe]["httpGet"]
    assert asked["path"] in PROBES
    assert asked["port"] == CONTAINER["ports"][0]["name"]


def test_a_pod_is_kept_by_livez_and_used_by_readyz():
    probes = {probe: CONTAINER[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")}
    assert probes == {"livenessProbe": "/livez", "readinessProbe": "/readyz"}


def test_the_port_is_the_images():
    port = CONTAINER["ports"][0]["containerPort"]
    assert str(port) == only("EXPOSE") == json.loads(only("CMD"))[-1] == POD["metadata"]["annotations"]["prometheus.io/port"]
    assert KINDS["Service"]["spec"]["ports"][0]["targetPort"] == CONTAINER["ports"][0]["name"]


def test_everything_selects_the_same_pods():
    labels = POD["metadata"]["labels"]
    assert KINDS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert KINDS["Service"]["spec"]["selector"] == labels
    assert KINDS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert KINDS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == KINDS["Deployment"]["metadata"]["name"]


def test_the_settings_are_settings(tmp_path):
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    settings = Settings.from_environment(GIVEN | {"GRAFT_API_KEY_FILE": str(key)})
    assert settings.key == "0123456789abcdef"


def test_the_key_comes_from_where_the_secret_is_mounted():
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert GIVEN["GRAFT_API_KEY_FILE"] == f"{mounts['key']}/key"
    [secret] = [volume["secret"] for volume in POD["spec"]["volumes"] if volume["name"] == "key"]
    assert (secret["secretName"], secret["defaultMode"]) == ("graft-key", 0o440)


def test_kubernetes_adds_no_variable_that_looks_like_a_setting():
    name = KINDS["Service"]["metadata"]["name"]
    assert f"{name}_PORT".upper().startswith(PREFIX)
    assert POD["spec"]["enableServiceLinks"] is False


def test_a_stop_has_time_to_drain():
    [_, pre_stop_s] = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    drain_s = float(GIVEN["GRAFT_DRAIN_DEADLINE_S"])
    assert int(pre_stop_s) + NOTICE_S + drain_s < POD["spec"]["terminationGracePeriodSeconds"]


def test_the_user_is_the_images_and_has_no_rights():
    pod, container = POD["spec"]["securityContext"], CONTAINER["securityContext"]
    assert any(f"--uid {pod['runAsUser']} graft" in rest for word, rest in instructions() if word == "RUN")
    assert pod["runAsNonRoot"] is True
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["allowPrivilegeEscalation"] is False
    assert container["readOnlyRootFilesystem"] is True
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert POD["spec"]["automountServiceAccountToken"] is False


def test_what_is_written_lies_on_a_volume():
    mounts = [mount["mountPath"] for mount in CONTAINER["volumeMounts"] if not mount.get("readOnly")]
    assert mounts == ["/tmp"]
    assert environment()["BENTOML_HOME"].startswith("/tmp/")


def test_memory_is_enough_for_the_worst_images_on_every_processor():
    limits, settings = CONTAINER["resources"]["limits"], Settings()
    at_rest, worst = 0.35 * 2**30, int(limits["cpu"]) * settings.max_decode_bytes + settings.max_upload_bytes
    assert limits["memory"].endswith("Gi")
    assert int(limits["memory"].removesuffix("Gi")) * 2**30 > at_rest + worst


def test_metrics_are_scraped_where_they_are_and_with_the_key():
    assert SCRAPE["metrics_path"] == POD["metadata"]["annotations"]["prometheus.io/path"]
    assert table()[SCRAPE["metrics_path"]].open is False
    assert SCRAPE["authorization"]["type"] == "Bearer"


@pytest.fixture(scope="module")
def samples(model, clothes) -> dict[str, list[dict[str, str]]]:
    """The labels of every series that is there once an image was classified, by metric."""
    found: dict[str, list[dict[str, str]]] = {}
    with mounted(model) as app, TestClient(app) as client:
        client.post("/v1/classify", content=clothes[0][1], headers={"Content-Type": "image/png"})
        for line in client.get("/metrics").text.splitlines():
            if series := re.fullmatch(r"(\w+)(?:\{(.*)\})? \S+", line):
                found.setdefault(series[1], []).append(dict(re.findall(r'(\w+)="([^"]*)"', series[2] or "")))
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_reads_metrics_that_exist_by_labels_that_they_have(samples, rule: dict[str, Any]):
    selected = SELECTOR.findall(rule["expr"])
    assert selected
    for metric, matchers in selected:
        assert metric in samples
        assert {label for label, _ in re.findall(r"(\w+)(=~|!~|!=|=)", matchers)} <= set(samples[metric][0])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_route_that_an_alert_names_exists(rule: dict[str, Any]):
    named = [route for routes in re.findall(r'route[=!]~"([^"]+)"', rule["expr"]) for route in routes.split("|")]
    assert named
    assert set(named) <= set(table())


def test_what_an_alert_says_names_metrics_that_exist(samples):
    said = " ".join(rule["annotations"]["summary"] for rule in RULES)
    families = {re.sub(r"_(bucket|count|sum|total)$", "", metric) for metric in samples}
    assert set(re.findall(r"graft_\w+", said)) <= families
