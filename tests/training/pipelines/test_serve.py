"""`graft serve` fails at once, with one line, where it cannot serve."""

import socket

import pytest

from graft.training.cli.main import main
from graft.training.pipelines.serve import environment


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "error: --port 70000: a port is a number from 0 to 65535; 0 takes any free port.\n"),
        (["--host", "no.such.invalid"], "error: --host no.such.invalid: this is not an IP address, and no host has this name."),
        (["--host", "1.2.3.4"], "error: --host 1.2.3.4: this machine has no such address."),
    ],
)
def test_an_address_that_cannot_work_ends_the_command(fitted, capsys, options, message):
    assert main(["serve", str(fitted.artifact.path), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_a_taken_port_ends_the_command(fitted, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", str(fitted.artifact.path), "--port", str(port)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --port {port}: another program already listens on port {port}")


def test_a_bentoml_home_that_cannot_be_written_is_named(fitted, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match="Set BENTOML_HOME to a folder that can be written"):
        environment(fitted.artifact.path, 3000)


@pytest.mark.parametrize(("option", "expected"), [(None, "cpu"), ("cuda", "cuda")])
def test_the_device_of_the_command_line_takes_precedence(fitted, monkeypatch, option, expected):
    monkeypatch.setenv("GRAFT_DEVICE", "cpu")
    assert environment(fitted.artifact.path, 3000, option)["GRAFT_DEVICE"] == expected
