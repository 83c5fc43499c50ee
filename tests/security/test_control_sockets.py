"""No socket of a running server but the one of the service can be reached by other users of the machine."""

import psutil
import pytest
from server_process import bentoml_server

pytestmark = pytest.mark.slow


def test_only_the_port_of_the_service_is_open(fitted):
    with bentoml_server(fitted.artifact.path) as server:
        connections = [found for process in server.processes() for found in process.net_connections("all")]
    listening = {found.laddr for found in connections if found.status == psutil.CONN_LISTEN}
    assert {address.port for address in listening} == {server.port}
    assert {found.laddr for found in connections if found.type != 1 and found.laddr} == set()  # no datagrams either
    paths = {found.laddr for found in connections if isinstance(found.laddr, str)} - {""}
    assert paths == set()  # and no named or abstract Unix socket
