"""Addresses in place of paths."""

from pathlib import Path

import pytest

from graft.service.remote_paths import rejection


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("https://a.example/photos.zip", "curl -LO https://a.example/photos.zip"),
        ("s3://bucket/photos", "aws s3 cp --recursive s3://bucket/photos FOLDER"),
        ("gs://bucket/photos", "gcloud storage cp -r gs://bucket/photos FOLDER"),
        ("hf://datasets/a/b", "hf download OWNER/NAME --local-dir FOLDER"),
    ],
)
def test_address_is_not_fetched_and_a_command_says_how(path: str, command: str):
    assert rejection(Path(path)) == (
        f"{path} is not fetched: Graft reads local files only. Download it, and pass the file or folder, for example with:"
        f" {command}"
    )


def test_file_address_says_the_path():
    assert rejection(Path("file:///data/photos")) == "file:///data/photos is an address. Pass the path: /data/photos"


@pytest.mark.parametrize("path", ["photos", "/data/a:b", "C:/photos", "a:/b", "../x.zip", "runs/12:30/package"])
def test_path_is_accepted(path: str):
    assert rejection(Path(path)) == ""


def test_folder_with_the_name_of_an_address_is_accepted(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "http:" / "a").mkdir(parents=True)
    assert rejection(Path("http:/a")) == ""
