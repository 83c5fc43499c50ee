"""The address to listen on: every address that cannot work is refused with one line that says why."""

import socket

import pytest
from unprivileged import run_unprivileged

from graft.service import listening
from graft.service.listening import ListenError


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 70000, "--port 70000: a port is a number from 0 to 65535"),
        ("127.0.0.1", -1, "--port -1: a port is a number from 0 to 65535"),
        ("1.2.3.4", 0, "--host 1.2.3.4: this machine has no such address"),
        ("2001:db8::1", 0, "--host 2001:db8::1: this machine has no such address"),
        ("localhost", 0, "--host localhost: BentoML needs an IP address here"),
        ("", 0, "--host : BentoML needs an IP address here"),
    ],
)
def test_an_address_that_cannot_work_is_explained(host, port, message):
    with pytest.raises(ListenError) as caught:
        listening.check(host, port)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("taken_at", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_another_program_listens_on_is_named(taken_at, host):
    with socket.create_server((taken_at, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ListenError, match=f"--port {port}: another program already listens on port {port} of {host}"):
            listening.check(host, port)


def test_a_port_below_1024_needs_rights(tmp_path):
    assert run_unprivileged(tmp_path, lambda: listening.check("127.0.0.1", 80)).startswith(
        ("", "ListenError: --port 80: this user may not listen on port 80.")[_low_ports_are_protected()]
    )


def _low_ports_are_protected() -> bool:
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
        return int(file.read()) > 80


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
def test_a_free_address_is_accepted_and_free_again(host):
    listening.check(host, 0)
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        port = listener.getsockname()[1]
    listening.check(host, port)
    listening.check(host, port)


def test_a_name_becomes_its_address():
    assert listening.resolve_host("localhost") in ("127.0.0.1", "::1")
    assert listening.resolve_host("::1") == "::1"
    assert listening.resolve_host("0.0.0.0") == "0.0.0.0"


@pytest.mark.parametrize("host", ["no such host", "a" * 70, "*"])
def test_an_unknown_name_is_refused(host):
    with pytest.raises(ListenError, match="not an IP address, and no host has this name"):
        listening.resolve_host(host)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "http://127.0.0.1:{}"), ("0.0.0.0", "http://127.0.0.1:{}"), ("::1", "http://[::1]:{}")],
)
def test_the_url_has_the_real_port(host, expected):
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        port = listener.getsockname()[1]
        assert port > 0
        assert listening.url(listener, "http") == expected.format(port)
