"""Offers to switch protocols are ignored: the request is answered over HTTP/1.1 with its body, on a connection that stays."""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_client import TIMEOUT_S, http_server, multipart_body, to_base64

JAVA_CLIENT = Path(__file__).parents[2] / "support" / "java" / "Classify.java"
OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
    "h2c, last token": b"Connection: keep-alive, upgrade\r\nUpgrade: h2c\r\n",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n",
    "TLS": b"Upgrade: TLS/1.0\r\nConnection: Upgrade\r\n",
    "several values": b"Connection: upgrade\r\nUpgrade: HTTP/2.0, SHTTP/1.3, IRC/6.9\r\n",
    "several headers": b"Connection: keep-alive\r\nConnection: Upgrade\r\nUPGRADE: h2c\r\nupgrade: websocket\r\n",
    "no value": b"Connection: upgrade\r\nUpgrade:\r\n",
    "not named by Connection": b"Upgrade: h2c\r\n",
}


@pytest.fixture(scope="module")
def port(model) -> Iterator[int]:
    with http_server(model) as port:
        yield port


@pytest.fixture
def connection(port) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        yield connection


def request(body: bytes, offer: bytes, path: str = "/v1/classify", kind: str = "image/png", chunked: bool = False) -> bytes:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\n" % (path.encode(), kind.encode())
    return head + offer + framing + b"\r\n\r\n" + (to_chunks(body) if chunked else body)


def to_chunks(body: bytes, size: int = 100) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def read_response(connection: socket.socket) -> tuple[int, dict]:
    """Status and JSON of one response; the connection stays open."""
    file = connection.makefile("rb")
    status = int(file.readline().split()[1])
    headers = dict(line.lower().split(b": ", 1) for line in iter(file.readline, b"\r\n"))
    return status, json.loads(file.read(int(headers[b"content-length"])))


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_body_is_read_and_the_connection_stays_usable(connection, model, shirt, offer, chunked):
    expected = model.classify(shirt, 1).ranked[0].label
    for sent in (request(shirt, offer, chunked=chunked), request(shirt, b""), request(shirt, offer)):
        connection.sendall(sent)
        status, answer = read_response(connection)
        assert (status, answer["predictions"][0]["label"]) == (200, expected)


FORM = "multipart/form-data; boundary=cut"
ROUTES = {
    "/v1/classify/batch": (lambda image: multipart_body(image, "images"), FORM),
    "/v1/embed": (multipart_body, FORM),
    "/v1/similar": (lambda image: json.dumps({"image": to_base64(image)}).encode(), "application/json"),
    "/v1/explain": (lambda image: json.dumps({"image": to_base64(image)}).encode(), "application/json"),
    "/classify": (lambda image: image, "application/octet-stream"),
}


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_reads_its_body(connection, shirt, path):
    to_body, kind = ROUTES[path]
    accept = b"Accept: application/json\r\n"
    connection.sendall(request(to_body(shirt), OFFERS["h2c"] + accept, path, kind))
    assert read_response(connection)[0] == 200


def test_get_with_an_offer_is_answered(connection):
    connection.sendall(b"GET /v1/labels HTTP/1.1\r\nHost: localhost\r\n" + OFFERS["websocket"] + b"\r\n")
    assert "labels" in read_response(connection)[1]


def test_head_and_body_may_arrive_byte_by_byte(connection, shirt):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in request(shirt, OFFERS["h2c"]):
        connection.sendall(bytes([byte]))
    assert read_response(connection)[0] == 200


def test_pipelined_offers_are_all_answered(port, shirt):
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        last = request(shirt, OFFERS["TLS"].replace(b"Connection: Upgrade", b"Connection: Upgrade, close"))
        connection.sendall(request(shirt, OFFERS["h2c"]) * 2 + request(shirt, OFFERS["websocket"], chunked=True) + last)
        answer = b"".join(iter(lambda: connection.recv(2**16), b""))
    assert answer.count(b"HTTP/1.1 200 OK") == 4


def test_upgrade_in_a_trailer_is_ignored(connection, shirt):
    sent = request(shirt, b"", chunked=True).removesuffix(b"\r\n") + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    connection.sendall(sent)
    assert read_response(connection)[0] == 200


def test_smuggled_length_is_rejected_despite_an_offer(connection, shirt):
    sent = request(shirt, OFFERS["h2c"] + b"Content-Length: 3\r\n", chunked=True)
    connection.sendall(sent)
    assert read_response(connection)[1]["code"] == "bad_request"


def test_headers_over_the_limit_are_rejected_despite_an_offer(connection):
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + OFFERS["h2c"] + b"X: " + b"x" * 40_000 + b"\r\n\r\n")
    assert read_response(connection)[1]["code"] == "headers_too_large"


def test_connect_is_rejected(connection):
    connection.sendall(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
    status, problem = read_response(connection)
    assert (status, problem["detail"]) == (400, "CONNECT is for proxies, and this is not one.")


def test_curl_that_offers_http2_gets_its_predictions(port, model, shirt, tmp_path):
    (tmp_path / "shirt.png").write_bytes(shirt)
    url = f"http://127.0.0.1:{port}/v1/classify"
    command = ["curl", "-sS", "--http2", "-F", f"image=@{tmp_path / 'shirt.png'}", url, "--next", "-sS", "--http2", url]
    command += ["-X", "POST", "-T", str(tmp_path / "shirt.png")]
    answers = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S).stdout
    label = model.classify(shirt, 1).ranked[0].label
    assert answers.count(f'"predictions":[{{"label":"{label}"') == 2


def test_curl_with_prior_knowledge_of_http2_is_turned_away(port):
    command = ["curl", "-sS", "--http2-prior-knowledge", f"http://127.0.0.1:{port}/livez"]
    assert subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT_S).returncode != 0


def test_java_client_gets_its_predictions(port, model, shirt, tmp_path):
    if shutil.which("javac") is None:
        pytest.skip("no Java compiler; Debian's default-jdk-headless has one")
    (tmp_path / "shirt.png").write_bytes(shirt)
    command = ["java", JAVA_CLIENT, f"http://127.0.0.1:{port}/v1/classify?top_k=1", tmp_path / "shirt.png"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=4 * TIMEOUT_S).stdout.splitlines()
    label = model.classify(shirt, 1).ranked[0].label
    assert [(line[:4], json.loads(line[4:])["predictions"][0]["label"]) for line in lines] == [("200 ", label)] * 2
