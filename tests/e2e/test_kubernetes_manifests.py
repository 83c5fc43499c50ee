"""Checks that everything named in the Kubernetes manifests exists: ports, probes, settings, users, metrics."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_client import asgi_app
from starlette.testclient import TestClient
from test_docker_image import environment, instructions, single_instruction

from graft.service.http.openapi import build_routes
from graft.service.http.routes import PROBE_PATHS
from graft.service.lifecycle import PRESTOP_S
from graft.service.settings import ENV_PREFIX, Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
RESOURCES = {found["kind"]: found for found in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
POD = RESOURCES["Deployment"]["spec"]["template"]
[CONTAINER] = POD["spec"]["containers"]
POD_ENV = {variable["name"]: variable["value"] for variable in CONTAINER["env"]}
[SCRAPE] = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
ALERT_RULES = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"][0]["rules"]
SELECTOR = re.compile(r"(graft_\w+)(?:\{([^}]*)\})?")


def test_all_needed_resources_exist():
    assert set(RESOURCES) == {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"}


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_use_routes_without_api_key(probe):
    http_get = CONTAINER[probe]["httpGet"]
    assert http_get["path"] in PROBE_PATHS
    assert http_get["port"] == CONTAINER["ports"][0]["name"]


def test_liveness_uses_livez_and_readiness_uses_readyz():
    probes = {probe: CONTAINER[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")}
    assert probes == {"livenessProbe": "/livez", "readinessProbe": "/readyz"}


def test_port_matches_the_image():
    port = CONTAINER["ports"][0]["containerPort"]
    assert (
        str(port)
        == single_instruction("EXPOSE")
        == json.loads(single_instruction("CMD"))[-1]
        == POD["metadata"]["annotations"]["prometheus.io/port"]
    )
    assert RESOURCES["Service"]["spec"]["ports"][0]["targetPort"] == CONTAINER["ports"][0]["name"]


def test_all_selectors_match_the_same_pods():
    labels = POD["metadata"]["labels"]
    assert RESOURCES["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert RESOURCES["Service"]["spec"]["selector"] == labels
    assert RESOURCES["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert RESOURCES["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == RESOURCES["Deployment"]["metadata"]["name"]


def test_settings_are_valid(tmp_path):
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    settings = Settings.from_environment(POD_ENV | {"GRAFT_API_KEY_FILE": str(key)})
    assert settings.needs_key


def test_key_file_is_in_the_mounted_secret():
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert POD_ENV["GRAFT_API_KEY_FILE"] == f"{mounts['key']}/key"
    [secret] = [volume["secret"] for volume in POD["spec"]["volumes"] if volume["name"] == "key"]
    assert (secret["secretName"], secret["defaultMode"]) == ("graft-key", 0o440)


def test_service_links_are_disabled():
    name = RESOURCES["Service"]["metadata"]["name"]
    assert f"{name}_PORT".upper().startswith(ENV_PREFIX)
    assert POD["spec"]["enableServiceLinks"] is False


def test_grace_period_covers_the_drain():
    [_, pre_stop_s] = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    drain_s = float(POD_ENV["GRAFT_DRAIN_DEADLINE_S"])
    assert int(pre_stop_s) + PRESTOP_S + drain_s < POD["spec"]["terminationGracePeriodSeconds"]


def test_user_matches_the_image_and_is_unprivileged():
    pod, container = POD["spec"]["securityContext"], CONTAINER["securityContext"]
    assert any(f"--uid {pod['runAsUser']} graft" in rest for word, rest in instructions() if word == "RUN")
    assert pod["runAsNonRoot"] is True
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["allowPrivilegeEscalation"] is False
    assert container["readOnlyRootFilesystem"] is True
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert POD["spec"]["automountServiceAccountToken"] is False


def test_writable_folder_is_a_volume():
    mounts = [mount["mountPath"] for mount in CONTAINER["volumeMounts"] if not mount.get("readOnly")]
    assert mounts == ["/tmp"]
    assert environment()["BENTOML_HOME"].startswith("/tmp/")


def test_memory_limit_covers_the_largest_images_on_every_cpu():
    limits, settings = CONTAINER["resources"]["limits"], Settings()
    idle_bytes, worst_bytes = 0.35 * 2**30, int(limits["cpu"]) * settings.max_decode_bytes + settings.max_upload_bytes
    assert limits["memory"].endswith("Gi")
    assert int(limits["memory"].removesuffix("Gi")) * 2**30 > idle_bytes + worst_bytes


GPU = {path.name: yaml.safe_load(path.read_text()) for path in (DEPLOY / "gpu").glob("*.yaml")}


def test_the_gpu_variant_changes_the_same_resources():
    assert yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())["resources"] == ["kubernetes.yaml"]
    kustomization = GPU["kustomization.yaml"]
    assert kustomization["resources"] == [".."]
    patches = [GPU[patch["path"]] for patch in kustomization["patches"]]
    assert len(patches) == len(GPU) - 1
    for patch in patches:
        base = RESOURCES[patch["kind"]]
        assert (patch["apiVersion"], patch["metadata"]["name"]) == (base["apiVersion"], base["metadata"]["name"])
        assert patch["spec"].keys() <= base["spec"].keys()


def test_the_gpu_variant_gets_a_gpu_and_fails_without_one():
    pod = GPU["deployment.yaml"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["name"] == CONTAINER["name"]
    assert container.keys() - {"startupProbe"} <= CONTAINER.keys()
    assert container["resources"]["limits"]["nvidia.com/gpu"] == container["resources"]["requests"]["nvidia.com/gpu"] == 1
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert Settings.from_environment(variables).device == "cuda"


def test_the_gpu_variant_has_memory_for_the_largest_images_on_every_cpu():
    [container] = GPU["deployment.yaml"]["spec"]["template"]["spec"]["containers"]
    limits, settings = container["resources"]["limits"], Settings()
    worst_bytes = 3 * 2**30 + int(limits["cpu"]) * settings.max_decode_bytes + settings.max_upload_bytes
    assert int(limits["memory"].removesuffix("Gi")) * 2**30 > worst_bytes


def test_prometheus_scrapes_the_metrics_with_the_key():
    assert SCRAPE["metrics_path"] == POD["metadata"]["annotations"]["prometheus.io/path"]
    assert build_routes()[SCRAPE["metrics_path"]].public is False
    assert SCRAPE["authorization"]["type"] == "Bearer"


@pytest.fixture(scope="module")
def samples(model, clothes) -> dict[str, list[dict[str, str]]]:
    """Labels of all metric series after one image was classified, by metric."""
    labels_by_metric: dict[str, list[dict[str, str]]] = {}
    with asgi_app(model) as app, TestClient(app) as client:
        client.post("/v1/classify", content=clothes[0][1], headers={"Content-Type": "image/png"})
        for line in client.get("/metrics").text.splitlines():
            if series := re.fullmatch(r"(\w+)(?:\{(.*)\})? \S+", line):
                labels_by_metric.setdefault(series[1], []).append(dict(re.findall(r'(\w+)="([^"]*)"', series[2] or "")))
    return labels_by_metric


@pytest.mark.parametrize("rule", ALERT_RULES, ids=lambda rule: rule["alert"])
def test_alerts_use_existing_metrics_and_labels(samples, rule: dict[str, Any]):
    selected = SELECTOR.findall(rule["expr"])
    assert selected
    for metric, matchers in selected:
        assert metric in samples
        assert {label for label, _ in re.findall(r"(\w+)(=~|!~|!=|=)", matchers)} <= set(samples[metric][0])


@pytest.mark.parametrize("rule", ALERT_RULES, ids=lambda rule: rule["alert"])
def test_routes_in_alerts_exist(rule: dict[str, Any]):
    routes_in_rule = [route for routes in re.findall(r'route[=!]~"([^"]+)"', rule["expr"]) for route in routes.split("|")]
    assert routes_in_rule
    assert set(routes_in_rule) <= set(build_routes())


def test_alert_summaries_name_existing_metrics(samples):
    summaries = " ".join(rule["annotations"]["summary"] for rule in ALERT_RULES)
    families = {re.sub(r"_(bucket|count|sum|total)$", "", metric) for metric in samples}
    assert set(re.findall(r"graft_\w+", summaries)) <= families
