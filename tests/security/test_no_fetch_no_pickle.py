"""The service never fetches a URL for a client and never unpickles anything."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest
from api_client import to_base64

ROOT = Path(__file__).parents[2]
PATHS = ["/classify", "/classify_batch", "/v1/classify", "/v1/classify/batch", "/v1/embed", "/v1/similar", "/v1/explain"]
NAMES = ["image", "images", "url", "image_url", "top_k"]


def requests_with_url(url: str) -> list[dict]:
    """All ways to pass a URL in a request."""
    as_text = {"headers": {"Content-Type": "text/plain"}, "content": url}
    return [
        *({"files": {name: (None, url)}} for name in NAMES),
        *({"files": {name: ("a.url", url, "text/uri-list")}} for name in NAMES),
        *({"json": {name: url}} for name in NAMES),
        *({"params": {name: url}} for name in NAMES),
        *({"data": {name: url}} for name in NAMES),
        {"json": {"image": [url]}},
        {"json": {"image": {"url": url}}},
        {"json": [url]},
        {"content": json.dumps(url), "headers": {"Content-Type": "application/json"}},
        {"content": url, "headers": {"Content-Type": "application/octet-stream"}},
        {"content": url, "headers": {"Content-Type": "application/vnd.bentoml+pickle"}},
        {"headers": {"X-Forwarded-Host": url, "Referer": url, "Content-Location": url}},
        as_text,
    ]


@pytest.mark.parametrize("path", PATHS)
def test_no_url_in_a_request_is_fetched(server, listener, path):
    address, visits = listener
    with httpx.Client() as client:
        for scheme in ("http://", "//"):
            for request in requests_with_url(f"{scheme}{address}"):
                response = client.post(f"{server}{path}", **request)
                assert 400 <= response.status_code < 500 or all(item["error"] for item in response.json()["results"])
    assert visits == []


# Unpickling anything but plain data looks up a class by name, which raises the audit event pickle.find_class.
AUDITED_PROGRAM = """
import asyncio, sys
found = []
sys.addaudithook(lambda event, arguments: found.append(arguments) if event == "pickle.find_class" else None)
from pathlib import Path
from graft.service.inference import model
from graft.service.settings import Settings
from graft.service.monitoring.metrics import Metrics
from graft.service.api.options import ClassifyOptions, ExplainOptions, SimilarOptions
from graft.service.scheduling.predictor import Predictor

package, image = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
predictor = Predictor(model.load(package, "cpu"), Settings(), Metrics())

async def send_requests():
    await predictor.classify(image, ClassifyOptions(), "r")
    await predictor.similar(image, SimilarOptions(thumbnails=True), "r")
    await predictor.explain(image, ExplainOptions(method="cam"), "r")
    await predictor.overlay(image, ExplainOptions(method="occlusion"))

asyncio.run(send_requests())
predictor.close()
print(found)
import pickle, collections
pickle.loads(pickle.dumps(collections.OrderedDict()))
print(len(found))
"""


def test_loading_a_package_and_predicting_unpickles_no_class(fitted, clothes, tmp_path):
    (tmp_path / "image").write_bytes(clothes[0][1])
    command = [sys.executable, "-c", AUDITED_PROGRAM, str(fitted.artifact.path), str(tmp_path / "image")]
    found, control = subprocess.check_output(command, text=True, cwd=ROOT).splitlines()
    assert (found, control) == ("[]", "1")  # the control shows that unpickling is detected


def test_package_contains_no_pickle(fitted):
    for path in fitted.artifact.path.iterdir():
        head = path.read_bytes()[:2]
        assert head not in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
        if zipfile.is_zipfile(path):
            assert {Path(name).suffix for name in zipfile.ZipFile(path).namelist()} == {".npy"}


def test_added_pickle_is_rejected(fitted, tmp_path):
    import shutil

    from graft.service.artifact import ArtifactError, read

    package = Path(shutil.copytree(fitted.artifact.path, tmp_path / "package"))
    (package / "custom_objects.pkl").write_bytes(b"\x80\x04N.")
    with pytest.raises(ArtifactError, match=r"custom_objects\.pkl"):
        read(package)


def test_pickled_body_is_rejected(server):
    content_types = [
        "application/vnd.bentoml+pickle",
        "Application/VND.BentoML+Pickle; v=1",
        "application/x-pickle",
        "application/python-pickle",
    ]
    for content_type in content_types:
        for path in PATHS:
            response = httpx.post(
                f"{server}{path}", content=b"cos\nsystem\n(S'true'\ntR.", headers={"Content-Type": content_type}
            )
            assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


def test_base64_of_a_pickle_is_rejected(server):
    response = httpx.post(f"{server}/v1/classify", json={"image": to_base64(b"\x80\x04N.")})
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_format")
