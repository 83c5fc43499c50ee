"""The OpenAPI document is valid, and clients that generators make of it work: Python, Java and TypeScript."""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from api_client import TIMEOUT_S, http_server
from openapi_spec_validator import OpenAPIV31SpecValidator

from graft.service.http.description.document import document
from graft.service.http.openapi import build_routes
from graft.service.settings import Settings

SUPPORT = Path(__file__).parents[2] / "support"
HTTPMIME = Path("/usr/share/java/httpmime.jar")
JAVA_OPTIONS = "openApiNullable=false,hideGenerationTimestamp=true"
# The generated code names an annotation that Java removed in version 11, and that is in no Debian package.
GENERATED = 'package javax.annotation; public @interface Generated { String[] value(); String comments() default ""; }'
NPM_PACKAGES = ("openapi-typescript@7.13.0", "openapi-fetch@0.17.0", "typescript@5.9.3", "@types/node@20")
COMPILE = ("--strict", "--skipLibCheck", "--target", "es2022", "--module", "nodenext", "--moduleResolution", "nodenext")
EXPECTED_ERROR = "422 bad_label"


@pytest.fixture(scope="module")
def url(model) -> Iterator[str]:
    with http_server(model) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def openapi(url, tmp_path_factory) -> Path:
    """The document of a running service, in a file."""
    path: Path = tmp_path_factory.mktemp("openapi") / "docs.json"
    path.write_bytes(httpx.get(f"{url}/docs.json").content)
    return path


@pytest.fixture
def image(shirt, tmp_path) -> Path:
    (tmp_path / "shirt.png").write_bytes(shirt)
    return tmp_path / "shirt.png"


@pytest.fixture
def label(model, shirt) -> str:
    return model.classify(shirt, 1).ranked[0].label


@pytest.mark.parametrize("settings", [{}, {"api_key": "0123456789abcdef"}, {"max_batch_images": 2}])
def test_document_is_valid(settings):
    OpenAPIV31SpecValidator(document(build_routes().values(), Settings(**settings))).validate()


def run(command: list[object], folder: Path, timeout_s: float = 5 * TIMEOUT_S) -> str:
    arguments = [str(argument) for argument in command]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def import_package(name: str, folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_openapi_python_client(openapi, url, shirt, label, tmp_path):
    program = Path(sys.executable).parent / "openapi-python-client"
    (tmp_path / "config.yaml").write_text("post_hooks: []\n")
    options = ["--path", openapi, "--output-path", tmp_path / "graft_client", "--meta", "none", "--config", "config.yaml"]
    assert "WARNING" not in run([program, "generate", "--fail-on-warning", *options], tmp_path)
    client = import_package("graft_client", tmp_path / "graft_client")
    from graft_client.api.images import classify, explain
    from graft_client.api.model import list_labels
    from graft_client.models import ImageForm
    from graft_client.types import File

    with client.Client(base_url=url) as connection:
        form = ImageForm(image=File(payload=shirt, file_name="shirt.png"))
        assert classify.sync(client=connection, body=form, top_k=1).predictions[0].label == label
        assert classify.sync(client=connection, body=File(payload=shirt)).prediction_set
        assert len(explain.sync(client=connection, body=form, label="bag").map_) > 1
        assert explain.sync(client=connection, body=form, label="unknown").code == "bad_label"
        assert len(list_labels.sync(client=connection).labels) == 10


@pytest.fixture(scope="module")
def generator() -> Path:
    """openapi-generator's program."""
    if shutil.which("java") is None:
        pytest.skip("no Java; Debian's default-jre-headless has it")
    import openapi_generator_cli

    return Path(openapi_generator_cli.__file__).parent / "openapi-generator.jar"


@pytest.mark.slow
def test_openapi_generator_for_python(generator, openapi, url, image, label, tmp_path):
    run(["java", "-jar", generator, "generate", "-i", openapi, "-g", "python", "-o", tmp_path / "client"], tmp_path)
    program = f"""
import openapi_client as generated

with generated.ApiClient(generated.Configuration(host={url!r})) as connection:
    images = generated.ImagesApi(connection)
    print(images.classify({str(image)!r}, top_k=1).predictions[0].label)
    print(len(images.classify_batch([{str(image)!r}] * 2).results))
    print(images.explain({str(image)!r}, label="bag").label)
    print(len(generated.ModelApi(connection).list_labels().labels))
    try:
        images.explain({str(image)!r}, label="unknown")
    except generated.ApiException as error:
        print(error.status, error.data.code)
"""
    found = run([sys.executable, "-c", program], tmp_path / "client").splitlines()
    assert found == [label, "2", "bag", "10", EXPECTED_ERROR]


@pytest.mark.slow
def test_openapi_generator_for_java(generator, openapi, url, image, label, tmp_path):
    if shutil.which("javac") is None or not HTTPMIME.is_file():
        pytest.skip("no Java compiler or no httpmime; Debian's default-jdk-headless and libhttpmime-java have them")
    options = ["--library", "native", f"--additional-properties={JAVA_OPTIONS}"]
    run(["java", "-jar", generator, "generate", "-i", openapi, "-g", "java", *options, "-o", tmp_path / "client"], tmp_path)
    (tmp_path / "Generated.java").write_text(GENERATED)
    classes = tmp_path / "classes"
    libraries = f"{generator}:{HTTPMIME}:{classes}"  # the generator contains Jackson
    sources = [*(tmp_path / "client" / "src" / "main").rglob("*.java"), tmp_path / "Generated.java"]
    run(["javac", "-nowarn", "-d", classes, "-cp", libraries, *sources, SUPPORT / "java" / "UseClient.java"], tmp_path)
    found = run(["java", "-cp", libraries, "UseClient", url, image], tmp_path).splitlines()
    assert found[0] == label
    assert found[1] == "2"
    assert found[2].startswith("bag ")
    assert found[3:] == ["3", "10", "false", EXPECTED_ERROR]


@pytest.mark.slow
def test_openapi_typescript(openapi, url, image, label, tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("no npm; Debian's npm has it")
    (tmp_path / "package.json").write_text(json.dumps({"type": "module"}))
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent", *NPM_PACKAGES]
    if subprocess.run(install, cwd=tmp_path, capture_output=True, check=False, timeout=10 * TIMEOUT_S).returncode:
        pytest.skip("the packages cannot be installed from npm's registry")
    programs = tmp_path / "node_modules" / ".bin"
    run([programs / "openapi-typescript", openapi, "-o", "api.d.ts"], tmp_path)
    shutil.copy(SUPPORT / "typescript" / "use_client.ts", tmp_path)
    run([programs / "tsc", *COMPILE, "use_client.ts"], tmp_path)
    found = run(["node", "use_client.js", url, image], tmp_path).splitlines()
    assert found[:2] == [label, "2"]
    assert found[2].startswith("bag ")
    assert found[3:] == ["10", EXPECTED_ERROR]
