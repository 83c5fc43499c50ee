"""Two doors that stay shut: nothing is fetched for a caller, and nothing is unpickled for anybody."""

import json
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from api_client import text

ROOT = Path(__file__).parents[2]
PATHS = ["/classify", "/classify_batch", "/v1/classify", "/v1/classify/batch", "/v1/embed", "/v1/similar", "/v1/explain"]
NAMES = ["image", "images", "url", "image_url", "top_k"]


@pytest.fixture(scope="module")
def listener() -> Iterator[tuple[str, list[str]]]:
    """A local address that counts who connects to it."""
    visits: list[str] = []
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()

        def watch() -> None:
            while True:
                try:
                    visitor, address = door.accept()
                except OSError:
                    return
                visits.append(str(address))
                visitor.close()

        threading.Thread(target=watch, daemon=True).start()
        yield f"127.0.0.1:{door.getsockname()[1]}/cat.jpg", visits
        door.shutdown(socket.SHUT_RDWR)


def ways(url: str) -> list[dict]:
    """Every way of naming a URL in a request."""
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
def test_no_way_of_naming_a_url_makes_the_service_connect_to_it(server, listener, path):
    address, visits = listener
    with httpx.Client() as client:
        for scheme in ("http://", "//"):
            for way in ways(f"{scheme}{address}"):
                response = client.post(f"{server}{path}", **way)
                assert 400 <= response.status_code < 500 or all(item["error"] for item in response.json()["results"])
    assert visits == []


# Whoever unpickles anything that is more than plain data looks a class up by its name, and that is announced.
AUDITED = """
import asyncio, sys
found = []
sys.addaudithook(lambda event, arguments: found.append(arguments) if event == "pickle.find_class" else None)
from pathlib import Path
from graft.service.inference import model
from graft.service.settings import Settings
from graft.service.monitoring.metrics import Metrics
from graft.service.api.options import ClassifyOptions, ExplainOptions, SimilarOptions
from graft.service.scheduling.predictor import Pipeline

package, image = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
pipeline = Pipeline(model.load(package, "cpu"), Settings(), Metrics())

async def ask():
    await pipeline.classify(image, ClassifyOptions(), "r")
    await pipeline.similar(image, SimilarOptions(thumbnails=True), "r")
    await pipeline.explain(image, ExplainOptions(method="cam"), "r")
    await pipeline.overlay(image, ExplainOptions(method="occlusion"))

asyncio.run(ask())
pipeline.close()
print(found)
import pickle, collections
pickle.loads(pickle.dumps(collections.OrderedDict()))
print(len(found))
"""


def test_no_class_is_unpickled_to_load_a_package_and_answer(fitted, clothes, tmp_path):
    (tmp_path / "image").write_bytes(clothes[0][1])
    command = [sys.executable, "-c", AUDITED, str(fitted.artifact.path), str(tmp_path / "image")]
    found, control = subprocess.check_output(command, text=True, cwd=ROOT).splitlines()
    assert (found, control) == ("[]", "1")  # the control shows that one would have been seen


def test_nothing_in_a_package_is_a_pickle(fitted):
    for path in fitted.artifact.path.iterdir():
        head = path.read_bytes()[:2]
        assert head not in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
        if zipfile.is_zipfile(path):
            assert {Path(name).suffix for name in zipfile.ZipFile(path).namelist()} == {".npy"}


def test_a_planted_pickle_is_refused_by_name(fitted, tmp_path):
    import shutil

    from graft.service.artifact import ArtifactError, read

    package = Path(shutil.copytree(fitted.artifact.path, tmp_path / "package"))
    (package / "custom_objects.pkl").write_bytes(b"\x80\x04N.")
    with pytest.raises(ArtifactError, match=r"custom_objects\.pkl"):
        read(package)


def test_a_pickled_body_is_not_read(server):
    kinds = [
        "application/vnd.bentoml+pickle",
        "Application/VND.BentoML+Pickle; v=1",
        "application/x-pickle",
        "application/python-pickle",
    ]
    for kind in kinds:
        for path in PATHS:
            answer = httpx.post(f"{server}{path}", content=b"cos\nsystem\n(S'true'\ntR.", headers={"Content-Type": kind})
            assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_base64_of_a_pickle_is_no_image(server):
    answer = httpx.post(f"{server}/v1/classify", json={"image": text(b"\x80\x04N.")})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_format")
