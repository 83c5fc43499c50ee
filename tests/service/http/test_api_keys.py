"""API keys: several at once, changed while the service runs, and keys that open only /metrics."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from api_client import asgi_app, assert_problem
from starlette.testclient import TestClient

from graft.service.http import api_keys
from graft.service.http.api_keys import ApiKeys

OLD, NEW, OTHER = "the old key of the service", "the new key of the service", "a key for Prometheus only"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"{OLD}\n")
    return path


@pytest.fixture
def later(monkeypatch) -> Callable[[float], None]:
    """Lets time pass for the keys."""
    now = [0.0]
    monkeypatch.setattr(api_keys.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def accepted(keys: ApiKeys) -> list[str]:
    return [key for key in (OLD, NEW, OTHER) if keys.accept(f"Bearer {key}")]


def replace(path: Path, content: str) -> None:
    """As a mounted secret changes: by renaming."""
    new = path.with_suffix(".new")
    new.write_text(content)
    new.rename(path)


def test_every_key_of_the_file_is_accepted(file):
    file.write_text(f"{OLD}\n# the next one\n{NEW}\n")
    assert accepted(ApiKeys(None, file)) == [OLD, NEW]


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", f"Basic {OLD}", OLD, f"Bearer {OLD}\n{NEW}", f"Bearer {OLD} {NEW}"]
)
def test_nothing_but_a_key_is_accepted(file, authorization):
    file.write_text(f"{OLD}\n{NEW}\n")
    assert not ApiKeys(None, file).accept(authorization)


@pytest.mark.parametrize("write", [replace, lambda path, content: path.write_text(content)])
def test_keys_change_with_the_file(file, later, write):
    keys = ApiKeys(None, file)
    write(file, f"{OLD}\n{NEW}\n")
    later(1)
    assert accepted(keys) == [OLD, NEW]
    write(file, f"{NEW}\n")
    later(1)
    assert accepted(keys) == [NEW]


def test_keys_change_with_the_target_of_a_link(file, later, tmp_path):
    link = tmp_path / "mounted"
    link.symlink_to(file)
    keys = ApiKeys(None, link)
    (tmp_path / "second").write_text(f"{NEW}\n")
    (tmp_path / "link").symlink_to(tmp_path / "second")
    (tmp_path / "link").rename(link)
    later(1)
    assert accepted(keys) == [NEW]


def test_the_file_is_looked_at_once_a_second(file, later, monkeypatch):
    keys = ApiKeys(None, file)
    looks = []
    monkeypatch.setattr(api_keys.os, "stat", lambda path, stat=os.stat: looks.append(path) or stat(path))
    for _ in range(100):
        later(0.05)
        keys.accept(f"Bearer {OLD}")
    assert 4 <= len(looks) <= 5


@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_text("short"), lambda path: path.write_text("")]
)
def test_an_unusable_file_leaves_the_keys_and_is_reported_once(file, later, caplog, damage):
    keys = ApiKeys(None, file)
    damage(file)
    for _ in range(5):
        later(1)
        assert accepted(keys) == [OLD]
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("the keys stay as they were: ")
    assert OLD not in warning
    replace(file, f"{NEW}\n")
    later(1)
    assert accepted(keys) == [NEW]


def test_all_keys_are_compared_in_constant_time(file, monkeypatch):
    file.write_text(f"{OLD}\n{NEW}\n")
    compared = []
    monkeypatch.setattr(api_keys.hmac, "compare_digest", lambda token, key: compared.append((token, key)) or token == key)
    assert ApiKeys(None, file).accept(f"Bearer {OLD}")
    assert compared == [(OLD.encode(), OLD.encode()), (OLD.encode(), NEW.encode())]


def get(client: TestClient, path: str, key: str | None) -> int:
    return client.get(path, headers={"Authorization": f"Bearer {key}"} if key else {}).status_code


def test_rotation_without_a_restart(model, file, later):
    with asgi_app(model, api_key_file=file) as app, TestClient(app) as client:
        assert [get(client, "/v1/labels", key) for key in (OLD, NEW)] == [200, 401]
        replace(file, f"{OLD}\n{NEW}\n")
        later(1)
        assert [get(client, "/v1/labels", key) for key in (OLD, NEW)] == [200, 200]
        replace(file, f"{NEW}\n")
        later(1)
        assert [get(client, "/v1/labels", key) for key in (OLD, NEW)] == [401, 200]


def test_a_metrics_key_opens_only_the_metrics(model, tmp_path):
    (tmp_path / "metrics").write_text(f"{OTHER}\n")
    with asgi_app(model, api_key=OLD, metrics_key_file=tmp_path / "metrics") as app, TestClient(app) as client:
        assert [get(client, "/metrics", key) for key in (OLD, OTHER, NEW, None)] == [200, 200, 401, 401]
        assert [get(client, "/v1/labels", key) for key in (OLD, OTHER)] == [200, 401]


def test_public_metrics_need_no_key(model):
    with asgi_app(model, api_key=OLD, metrics_public=True) as app, TestClient(app) as client:
        assert get(client, "/metrics", None) == 200
        assert_problem(client.get("/v1/labels"), 401, "unauthorized")
        paths = client.get("/openapi.json").json()["paths"]
    assert paths["/metrics"]["get"]["security"] == []
    assert "security" not in paths["/v1/labels"]["get"]
