"""Bodies as callers send them: any usual field, any variant of base64, wrong media types; and errors that say what came."""

import base64
import json
import subprocess
import textwrap
import time
import urllib.parse
from contextlib import suppress

import pytest
from api_client import BOUNDARY, TIMEOUT_S, assert_problem, http_server, multipart_body, to_base64

from graft.service.errors import ProblemError
from graft.service.http import image_text
from graft.service.http.body_parsers import find_parser

PNG = bytes.fromhex("89504e470d0a1a0a") + bytes(range(256))  # begins like a PNG, and its base64 has all 64 digits
URLENCODED = "application/x-www-form-urlencoded"


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode()


TEXTS = {
    "base64": to_base64(PNG),
    "no padding": to_base64(PNG).rstrip("="),
    "base64url": base64url(PNG),
    "base64url without padding": base64url(PNG).rstrip("="),
    "line breaks (RFC 2045)": base64.encodebytes(PNG).decode(),
    "Windows line breaks": base64.encodebytes(PNG).decode().replace("\n", "\r\n"),
    "PEM": textwrap.fill(to_base64(PNG), 64) + "\n",
    "spaces around": f" \t{to_base64(PNG)} \n",
    "data URL": f"data:image/png;base64,{to_base64(PNG)}",
    "data URL in capitals": f"DATA:IMAGE/PNG;BASE64,{to_base64(PNG)}",
    "data URL of a wrong type": f"data:image/jpeg;base64,{to_base64(PNG)}",
    "data URL without a type": f"data:;base64,{to_base64(PNG)}",
    "data URL with parameters": f"data:image/svg+xml;name=a.png;charset=utf-8; base64,{to_base64(PNG)}",
    "data URL with base64url": f"data:application/octet-stream;base64,{base64url(PNG).rstrip('=')}",
    "data URL with line breaks": f"data:image/png;base64,\n{base64.encodebytes(PNG).decode()}",
    "data URL, escaped": f"data:image/png;base64,{urllib.parse.quote(to_base64(PNG), safe='')}",
    "data URL without base64": f"data:image/png,{urllib.parse.quote_from_bytes(PNG, safe='')}",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_image_in_text_is_decoded(text):
    assert image_text.decode(text.encode()) == PNG


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize(
    "content_type",
    ["application/octet-stream", "image/png", "text/plain;charset=UTF-8", "", URLENCODED],
    ids=lambda kind: kind or "none",
)
def test_text_is_an_image_whatever_the_type(text, content_type):
    assert find_parser(content_type)(text.encode()) == ([PNG], {})


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_in_json_is_an_image(text):
    assert find_parser("application/json")(json.dumps({"image": text, "k": 3}).encode()) == ([PNG], {"k": 3})


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_in_a_form_is_an_image(text):
    body = f'--cut\r\nContent-Disposition: form-data; name="image"\r\n\r\n{text}\r\n--cut--\r\n'.encode()
    assert find_parser(BOUNDARY["Content-Type"])(body).images == [PNG]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_in_a_urlencoded_form_is_an_image(text):
    body = urllib.parse.urlencode({"image": text, "top_k": 3}, quote_via=urllib.parse.quote)
    assert find_parser(URLENCODED)(body.encode()) == ([PNG], {"top_k": "3"})


def test_plus_signs_that_a_form_does_not_escape_are_kept():
    assert find_parser(URLENCODED)(f"image={to_base64(PNG)}&top_k=2".encode()) == ([PNG], {"top_k": "2"})


FIELDS = ["image", "images", "file", "files", "image[]", "images[]", "file[]", "files[]"]


@pytest.mark.parametrize("name", FIELDS)
def test_field_may_have_any_usual_name(name):
    assert find_parser(BOUNDARY["Content-Type"])(multipart_body(PNG, name)).images == [PNG]
    assert find_parser("application/json")(json.dumps({name: to_base64(PNG)}).encode()).images == [PNG]
    assert find_parser(URLENCODED)(urllib.parse.urlencode({name: to_base64(PNG)}).encode()).images == [PNG]


def test_images_in_several_fields_are_all_found():
    first, second = multipart_body(PNG, "image"), multipart_body(PNG[:-1], "files[]")
    body = first.removesuffix(b"--cut--\r\n") + second
    assert find_parser(BOUNDARY["Content-Type"])(body).images == [PNG, PNG[:-1]]


def test_file_needs_no_name():
    body = multipart_body(PNG).replace(b'; filename="a.png"', b"")
    assert find_parser(BOUNDARY["Content-Type"])(body).images == [PNG]


BINARY_TYPES = [
    "",
    "application/octet-stream",
    "binary/octet-stream",
    "Application/Binary; a=b",
    "image/*",
    "image/x",
    URLENCODED,
]


@pytest.mark.parametrize("content_type", BINARY_TYPES, ids=lambda kind: kind or "none")
def test_image_bytes_are_an_image_whatever_the_type(content_type):
    assert find_parser(content_type)(PNG) == ([PNG], {})


@pytest.mark.parametrize("content_type", ["", "text/plain", URLENCODED, "text/json", "application/vnd.api+json"])
def test_json_is_json_whatever_the_type(content_type):
    body = b' \n{"image": "' + to_base64(PNG).encode() + b'", "top_k": 2}'
    assert find_parser(content_type)(body) == ([PNG], {"top_k": 2})


@pytest.mark.parametrize(
    ("content_type", "body", "code", "detail"),
    [
        ("text/csv", b"", "unsupported_media_type", "text/csv is not accepted; send image/*, application/octet-stream,"),
        ("text/plain", b"hello", "unsupported_media_type", "neither JSON nor an image in base64; it begins with 'hello'."),
        ("text/plain", PNG, "unsupported_media_type", "The body has the type text/plain and is an image;"),
        ("application/json", PNG, "unsupported_media_type", "The body is an image, but its Content-Type is JSON."),
        ("application/json", b"<html>", "bad_json", "it begins with '<html>'."),
        ("application/json", b"[1]", "missing_image", 'The JSON is a list. Send {"image": "<base64>"}.'),
        ("application/json", b'{"img": "", "k": 1}', "missing_image", "the JSON object has the keys 'img', 'k'."),
        ("application/json", b"{}", "missing_image", "the JSON object is empty."),
        ("application/json", b'{"image": {"b64": ""}}', "missing_image", "The key 'image' holds an object, not base64"),
        ("application/json", b'{"image": "a*b"}', "bad_base64", "character 2 is '*'. It begins with 'a*b'."),
        ("application/json", b'{"image": "https://a.b/c.png"}', "urls_not_accepted", "Images are never fetched"),
        ("application/json", b'{"image": "//a.b/c.png"}', "urls_not_accepted", "Images are never fetched"),
        (URLENCODED, b"photo=aGk%3D&top_k=3", "missing_image", "the form has the fields 'photo', 'top_k'. Send image/*"),
        (URLENCODED, b"hello", "unsupported_media_type", "neither a form nor an image: it begins with 'hello'."),
        (URLENCODED, b"a=b&" * 101, "unsupported_media_type", "neither a form nor an image"),
        (URLENCODED, b"https://a.b/c.png?d=e&f=g", "urls_not_accepted", "Images are never fetched"),
        ("text/plain", b"https://a.b/c.png", "urls_not_accepted", "Images are never fetched"),
        (URLENCODED, b"image=http%3A%2F%2Fa.b", "urls_not_accepted", "Images are never fetched"),
        (
            URLENCODED,
            b"image=null",
            "missing_image",
            "The field 'image' holds text, and no image in base64: it begins with 'null'.",
        ),
        (URLENCODED, b"image=", "missing_image", "The field 'image' is empty; send a file."),
        ("multipart/form-data", b"", "bad_multipart", "has no boundary: let the HTTP library set this header"),
    ],
)
def test_error_says_what_came(content_type, body, code, detail):
    with pytest.raises(ProblemError) as caught:
        find_parser(content_type)(body)
    assert caught.value.code == code
    assert detail in str(caught.value)


def test_error_names_the_first_fields_of_a_form():
    parts = b"".join(b'--cut\r\nContent-Disposition: form-data; name="%d"\r\n\r\n\r\n' % number for number in range(9))
    with pytest.raises(ProblemError, match="the form has the fields '0', '1', '2', '3', '4', …") as caught:
        find_parser(BOUNDARY["Content-Type"])(parts + b"--cut--\r\n")
    assert str(caught.value).endswith("Send a file in the field 'image'.")


@pytest.mark.parametrize("content_type", ["application/octet-stream", "image/png", ""])
def test_error_for_unknown_bytes_shows_the_type_and_the_first_bytes(client, content_type):
    response = client.post("/v1/classify", content=b"\x00\x01nonsense", headers={"Content-Type": content_type})
    detail = assert_problem(response, 415, "unsupported_format")["detail"]
    assert (content_type or "without a Content-Type") in detail
    assert r"begins with '\x00\x01nonsense'" in detail


def test_known_type_that_is_no_image_is_named(client):
    response = client.post("/v1/classify", content=b"%PDF-1.7", headers={"Content-Type": URLENCODED + "x"})
    assert_problem(response, 415, "unsupported_media_type")
    assert assert_problem(client.post("/v1/classify", content=b"%PDF-1.7"), 415, "unsupported_format")["detail"].startswith(
        "PDF"
    )


def test_empty_body_of_any_type_is_an_empty_image(client):
    for content_type in BINARY_TYPES:
        assert_problem(client.post("/v1/classify", content=b"", headers={"Content-Type": content_type}), 422, "empty_image")


def test_two_images_in_json_are_rejected(client, shirt):
    body = {"image": to_base64(shirt), "file": to_base64(shirt)}
    assert_problem(client.post("/v1/classify", json=body), 422, "too_many_files")


CURL = {
    "-T": ["-X", "POST", "-T", "FILE"],
    "--data-binary": ["--data-binary", "@FILE"],
    "-F image": ["-F", "image=@FILE"],
    "-F file": ["-F", "file=@FILE"],
    "-F with options": ["-F", "images[]=@FILE", "-F", "top_k=1"],
    "-d of a form": ["-d", "image=BASE64"],
    "--data-urlencode": ["--data-urlencode", "image=data:image/png;base64,BASE64", "-d", "top_k=1"],
    "-d of JSON": ["-d", '{"image": "BASE64"}'],
    "-H of another type": ["-H", "Content-Type: binary/octet-stream", "--data-binary", "@FILE"],
    "-H of no type": ["-H", "Content-Type:", "--data-binary", "@FILE"],
}


@pytest.fixture(scope="module")
def url(model):
    with http_server(model) as port:
        yield f"http://127.0.0.1:{port}/v1/classify"


@pytest.mark.parametrize("arguments", CURL.values(), ids=CURL)
def test_curl_gets_its_predictions(url, model, shirt, tmp_path, arguments):
    (tmp_path / "FILE").write_bytes(shirt)
    command = ["curl", "-sS", *(argument.replace("BASE64", to_base64(shirt)) for argument in arguments), url]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=TIMEOUT_S).stdout
    assert json.loads(answer)["predictions"][0]["label"] == model.classify(shirt, 1).ranked[0].label


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_curl_that_removes_line_breaks_is_told_so(url, tmp_path, encode, photo, format):
    (tmp_path / "FILE").write_bytes(encode(photo, format))
    command = ["curl", "-sS", "-d", "@FILE", url]
    answer = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=TIMEOUT_S).stdout)
    assert (answer["code"], "--data-binary" in answer["detail"]) == ("corrupt_image", True)


FORM = "multipart/form-data; boundary=x"
SLOW = {
    "escaped data URL": (URLENCODED, b"image=data:image/png," + b"%41" * 3_000_000),
    "data URL without a comma": ("application/json", b'{"image": "data:' + b"a" * 9_000_000 + b'"}'),
    "base64 with one bad character": ("application/json", b'{"image": "' + b"A" * 9_000_000 + b'*"}'),
    "ampersands": (URLENCODED, b"&" * 9_000_000),
    "escaped names": (URLENCODED, b"%41" * 3_000_000 + b"=1"),
    "spaces": ("text/plain", b" " * 9_000_000),
    "quotes": ("application/json", b'{"image": ' + b'"' * 9_000_000),
    "numbers": ("application/json", b'{"image": "AAAA", "k": [' + b"1," * 4_500_000 + b"1]}"),
    "half boundaries": (FORM, b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + b"\r\n--" * 2_000_000),
    "header lines": (FORM, (b"--x\r\n" + b"a:b\r\n" * 5_000 + b"\r\n\r\n") * 300 + b"--x--"),
    "parameters": (FORM, (b"--x\r\nContent-Disposition: form-data" + b"; a=b" * 6_000 + b"\r\n\r\n\r\n") * 300 + b"--x--"),
    "backslashes": (
        FORM,
        (b'--x\r\nContent-Disposition: form-data; name="' + b"\\" * 30_000 + b"\r\n\r\n\r\n") * 300 + b"--x--",
    ),
}


@pytest.mark.parametrize(("content_type", "body"), SLOW.values(), ids=SLOW)
def test_no_body_blocks_the_event_loop(content_type, body):
    start = time.thread_time()
    with suppress(ProblemError):
        find_parser(content_type)(body)
    assert time.thread_time() - start < 1
