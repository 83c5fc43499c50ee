"""The HTTP API with a real client: options, encodings, limits, and every error as application/problem+json."""

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from api_client import BOUNDARY, JSON, TIMEOUT_S, BlockingEngine, asgi_app, assert_problem, multipart_body, to_base64
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from graft.service.inference.engine import Outputs, Pixels
from graft.service.inference.model import ClassificationResult, Model
from graft.service.settings import Settings

EVERY_PATH = [("POST", f"/v1/{name}") for name in ("classify", "classify/batch", "embed", "similar")] + [
    ("GET", "/v1/model"),
    ("GET", "/v1/labels"),
    ("GET", "/v1/limits"),
]
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"]


class BrokenEngine:
    """A network with NaN outputs."""

    device, precision, streams, max_batch = "cpu", "f32", 1, 1

    def __call__(self, batch: Pixels) -> Outputs:
        return Outputs(np.full((len(batch), 10), np.nan, np.float32), np.zeros((len(batch), 8), np.float32))


class BuggyModel(Model):
    def postprocess(self, outputs: Outputs, top_k: int, max_error: float | None = None) -> ClassificationResult:
        raise KeyError("/secret/path")


@pytest.fixture
def strict(model) -> Iterator[TestClient]:
    """A service that accepts 1,000 bytes, and images of 100x100 pixels."""
    with (
        asgi_app(model, max_body_bytes=1000, max_pixels=10_000) as app,
        TestClient(app, raise_server_exceptions=False) as client,
    ):
        yield client


Send = Callable[..., Any]
ENCODINGS: dict[str, Send] = {
    "raw": lambda client, image: client.post("/v1/classify", content=image, headers={"Content-Type": "image/png"}),
    "octets": lambda client, image: client.post(
        "/v1/classify", content=image, headers={"Content-Type": "application/octet-stream"}
    ),
    "untyped": lambda client, image: client.post("/v1/classify", content=image),
    "wrong type": lambda client, image: client.post("/v1/classify", content=image, headers={"Content-Type": "IMAGE/jpg; q=1"}),
    "form": lambda client, image: client.post("/v1/classify", files={"image": ("a.png", image, "image/png")}),
    "hostile name": lambda client, image: client.post("/v1/classify", files={"image": ("../../etc/passwd\u202e", image)}),
    "base64": lambda client, image: client.post("/v1/classify", json={"image": to_base64(image)}),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_gets_the_models_predictions(client, model, shirt, encoding):
    response = ENCODINGS[encoding](client, shirt)
    assert response.status_code == 200
    found = [(prediction["label"], prediction["probability"]) for prediction in response.json()["predictions"]]
    assert found == [tuple(ranked) for ranked in model.classify(shirt, 5).ranked]


def test_response_fields(client, model, shirt):
    response = client.post("/v1/classify", content=shirt)
    answer = response.json()
    uncertainty = {"prediction_set", "outlier_score", "abstain", "abstain_reason"}
    assert set(answer) == {"predictions", "model", "image", "warnings", "timing_ms", "request_id"} | uncertainty
    assert answer["model"] == {"name": "fashion-mnist", "version": model.manifest.version, "sha256": model.manifest.sha256}
    assert answer["image"] == {"width": 28, "height": 28, "format": "PNG"}
    assert answer["warnings"] == []
    assert set(answer["timing_ms"]) == {"decode", "network"}
    assert answer["request_id"] == response.headers["X-Request-ID"]


def test_response_has_prediction_set_and_outlier_score(client, model, shirt):
    answer, expected = client.post("/v1/classify", content=shirt).json(), model.classify(shirt, 5)
    assert answer["prediction_set"] == list(expected.prediction_set)
    assert (answer["abstain"], answer["abstain_reason"]) == (False, None)
    assert answer["outlier_score"] == expected.outlier_score


def test_model_abstains_from_an_outlier(client, encode):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    answer = client.post("/v1/classify", content=encode(noise)).json()
    assert (answer["abstain"], answer["abstain_reason"]) == (True, "outlier")


def test_all_predictions_are_sorted_and_sum_to_one(client, model, shirt):
    predictions = client.post("/v1/classify?top_k=10", content=shirt).json()["predictions"]
    chances = [prediction["probability"] for prediction in predictions]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1, abs=1e-6)
    assert {prediction["label"] for prediction in predictions} == set(model.manifest.labels)


def test_decoding_notes_are_warnings(client, encode):
    answer = client.post("/v1/classify", content=encode(np.zeros((1, 1, 3), np.uint8))).json()
    assert answer["warnings"] == ["tiny: fewer than 16 pixels on a side"]


def test_width_and_height_are_of_the_upright_image(client, encode, photo):
    rotated = Image.Exif()
    rotated[0x0112] = 6
    assert client.post("/v1/classify", content=encode(photo, "JPEG", exif=rotated)).json()["image"] == {
        "width": 60,
        "height": 80,
        "format": "JPEG",
    }


TOP_K: dict[str, Send] = {
    "query": lambda client, image, top_k: client.post("/v1/classify", params={"top_k": top_k}, content=image),
    "form": lambda client, image, top_k: client.post("/v1/classify", files={"image": image}, data={"top_k": str(top_k)}),
    "JSON": lambda client, image, top_k: client.post("/v1/classify", json={"image": to_base64(image), "top_k": top_k}),
}


@pytest.mark.parametrize("place", TOP_K)
def test_top_k_in_query_form_and_json(client, shirt, place):
    assert len(TOP_K[place](client, shirt, 2).json()["predictions"]) == 2


@pytest.mark.parametrize("place", TOP_K)
def test_a_large_top_k_is_clamped_with_a_warning(client, shirt, place):
    answer = TOP_K[place](client, shirt, 1000).json()
    assert (len(answer["predictions"]), answer["warnings"]) == (10, ["top_k: the model has only 10 labels"])


@pytest.mark.parametrize("place", TOP_K)
@pytest.mark.parametrize("value", [0, -1, "abc", 3.5, ""])
def test_invalid_top_k_is_rejected(client, shirt, place, value):
    assert assert_problem(TOP_K[place](client, shirt, value), 422, "bad_top_k")["field"] == "top_k"


@pytest.mark.parametrize("value", ["true", "null", "[3]", "3.5", '"\\ud800"'])
def test_top_k_of_another_json_type_is_rejected(client, shirt, value):
    body = f'{{"image": "{to_base64(shirt)}", "top_k": {value}}}'
    assert_problem(client.post("/v1/classify", content=body, headers=JSON), 422, "bad_top_k")


REPEATED: dict[str, Send] = {
    "query": lambda client, image: client.post("/v1/classify?top_k=1&top_k=2", content=image),
    "form": lambda client, image: client.post("/v1/classify", files={"image": image}, data={"top_k": ["1", "2"]}),
}
QUERY_AND_BODY: dict[str, Send] = {
    "form": lambda client, image: client.post("/v1/classify?top_k=1", files={"image": image}, data={"top_k": "2"}),
    "JSON": lambda client, image: client.post("/v1/classify?top_k=1", json={"image": to_base64(image), "top_k": 2}),
}


@pytest.mark.parametrize("place", QUERY_AND_BODY)
def test_body_option_overrides_query_option(client, shirt, place):
    assert len(QUERY_AND_BODY[place](client, shirt).json()["predictions"]) == 2


@pytest.mark.parametrize("places", REPEATED)
def test_repeated_option_is_rejected(client, shirt, places):
    assert assert_problem(REPEATED[places](client, shirt), 422, "bad_top_k")["field"] == "top_k"


def test_repeated_json_key_is_rejected(client, shirt):
    body = f'{{"image": "{to_base64(shirt)}", "top_k": 1, "top_k": 2}}'
    assert_problem(client.post("/v1/classify", content=body, headers=JSON), 400, "bad_json")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_json_constants_outside_the_standard_are_rejected(client, shirt, constant):
    body = f'{{"image": "{to_base64(shirt)}", "threshold": {constant}}}'
    assert_problem(client.post("/v1/classify", content=body, headers=JSON), 400, "bad_json")


def test_threshold_filters_predictions(client, model, shirt):
    every = model.classify(shirt, 10).ranked
    answer = client.post(f"/v1/classify?top_k=10&threshold={every[1].probability}", content=shirt).json()
    assert [prediction["label"] for prediction in answer["predictions"]] == [every[0].label, every[1].label]


def test_a_request_chooses_the_error_at_which_the_model_abstains(client, model, shirt):
    calibration, [best] = model.manifest.calibration, model.classify(shirt, 1).ranked
    for level in calibration.error_levels:
        answer = client.post(f"/v1/classify?max_error={level.max_error}", content=shirt).json()
        is_unsure = level.min_probability is None or best.probability < level.min_probability
        assert (answer["abstain"], answer["abstain_reason"]) == (is_unsure, "unsure" if is_unsure else None)
    reasons = [client.post(f"/v1/classify?max_error={error}", content=shirt).json()["abstain_reason"] for error in (0, 1)]
    assert reasons == ["unsure", None]


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "often", ""])
def test_invalid_max_error_is_rejected(client, shirt, value):
    response = client.post("/v1/classify", params={"max_error": value}, content=shirt)
    assert assert_problem(response, 422, "bad_max_error")["field"] == "max_error"


def test_threshold_does_not_filter_the_prediction_set(client, shirt):
    answer = client.post("/v1/classify?threshold=1", content=shirt).json()
    assert (answer["predictions"], len(answer["prediction_set"]) >= 1) == ([], True)


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "-0.1", "1.1", "", "half", "0.5 ", "0,5", "1_0"])
def test_invalid_threshold_is_rejected(client, shirt, value):
    response = client.post("/v1/classify", params={"threshold": value}, content=shirt)
    assert assert_problem(response, 422, "bad_threshold")["field"] == "threshold"


@pytest.mark.parametrize("value", ["true", "1e400", '"x"', "null", "[0]"])
def test_threshold_of_another_json_type_is_rejected(client, shirt, value):
    body = f'{{"image": "{to_base64(shirt)}", "threshold": {value}}}'
    assert_problem(client.post("/v1/classify", content=body, headers=JSON), 422, "bad_threshold")


UNKNOWN_FIELD: dict[str, Send] = {
    "query": lambda client, image: client.post("/v1/classify?topk=3", content=image),
    "form": lambda client, image: client.post("/v1/classify", files={"image": image}, data={"topk": "3"}),
    "JSON": lambda client, image: client.post("/v1/classify", json={"image": to_base64(image), "topk": 3}),
}


@pytest.mark.parametrize("place", UNKNOWN_FIELD)
def test_unknown_field_is_named_in_the_error(client, shirt, place):
    assert assert_problem(UNKNOWN_FIELD[place](client, shirt), 422, "unknown_field")["field"] == "topk"


def test_field_name_with_a_surrogate_is_rejected(client, shirt):
    body = f'{{"image": "{to_base64(shirt)}", "\\ud800": 1}}'
    assert_problem(client.post("/v1/classify", content=body, headers=JSON), 422, "unknown_field")


@pytest.mark.parametrize("encoding", ["raw", "form", "base64"])
@pytest.mark.parametrize(
    ("image", "status", "code"),
    [
        (b"", 422, "empty_image"),
        (b"hello", 415, "unsupported_format"),
        (b"\x80\x04\x95", 415, "unsupported_format"),
        (b"\x89PNG\r\n\x1a\n cut", 422, "corrupt_image"),
    ],
)
def test_invalid_image_has_the_same_code_in_every_encoding(client, encoding, image, status, code):
    assert_problem(ENCODINGS[encoding](client, image), status, code)


def test_thin_image_is_rejected_with_its_limit(client, encode):
    fields = assert_problem(client.post("/v1/classify", content=encode(Image.new("L", (2000, 1)))), 422, "bad_aspect")
    assert fields["limit"] == {"name": "max_aspect", "value": 50, "setting": "GRAFT_MAX_ASPECT"}


def test_large_image_is_rejected_with_its_limit(client, encode):
    fields = assert_problem(
        client.post("/v1/classify", content=encode(Image.new("1", (12_000, 12_000)))), 413, "image_too_large"
    )
    assert fields["limit"] == {"name": "max_pixels", "value": 64_000_000, "setting": "GRAFT_MAX_PIXELS"}


def test_image_limits_come_from_the_settings(encode, model):
    small = Model(model.artifact, model.engine, Settings(max_side=50).image_limits)
    with asgi_app(small, max_side=50) as app, TestClient(app) as client:
        fields = assert_problem(
            client.post("/v1/classify", content=encode(np.zeros((40, 60, 3), np.uint8))), 413, "image_too_large"
        )
    assert fields["limit"] == {"name": "max_side", "value": 50, "setting": "GRAFT_MAX_SIDE"}


@pytest.mark.parametrize("body", [b"", b"{", b"nope", b"\xff\xfe", b"[" * 100_000, b'{"image":' + b"[" * 100_000, b"1" * 5000])
def test_invalid_json_is_rejected(client, body):
    assert_problem(client.post("/v1/classify", content=body, headers=JSON), 400, "bad_json")


@pytest.mark.parametrize("body", ["{}", "[]", "null", "3", '"text"', '{"image": 3}', '{"image": null}', '{"image": ["aGk="]}'])
def test_json_without_an_image_is_rejected(client, body):
    assert assert_problem(client.post("/v1/classify", content=body, headers=JSON), 422, "missing_image")["field"] == "image"


@pytest.mark.parametrize("image", ["hello", "aGVsbG8=aGVs", "aGVs*bG8=", "data:image/png;base64", "ä", "\ud800"])
def test_invalid_base64_is_rejected(client, image):
    body = json.dumps({"image": image})
    assert assert_problem(client.post("/v1/classify", content=body, headers=JSON), 422, "bad_base64")["field"] == "image"


NAMES = [
    "../../x",
    "/abs/x.png",
    "C:\\x.png",
    "a\0b",
    "x" * 5000,
    "\u202egnp.exe",
    "a\r\nX-Evil: 1",
    "",
    "<b>.png",
    '"; name="other',
]


@pytest.mark.parametrize("name", NAMES)
def test_file_name_is_ignored(client, model, shirt, name):
    response = client.post("/v1/classify?top_k=1", files={"image": (name, shirt)} if name else {"image": shirt})
    assert response.json()["predictions"][0]["label"] == model.classify(shirt, 1).ranked[0].label
    assert "evil" not in str(response.headers).lower()


def test_predictions_are_the_same_alone_and_in_a_batch(client, shirt, clothes):
    alone = [client.post("/v1/classify?top_k=10", content=shirt).json()["predictions"] for _ in range(2)]
    sent = [("images", shirt), *(("images", encoded) for _, encoded in clothes)]
    beside = client.post("/v1/classify/batch?top_k=10", files=sent).json()["results"][0]["answer"]["predictions"]
    for other in (alone[1], beside):
        assert [prediction["label"] for prediction in other] == [prediction["label"] for prediction in alone[0]]
        expected = [prediction["probability"] for prediction in alone[0]]
        assert [prediction["probability"] for prediction in other] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("n_files", [2, 3, 17])
def test_more_than_one_file_is_rejected(client, shirt, n_files):
    response = client.post("/v1/classify", files=[("image", ("a.png", shirt))] * n_files)
    assert assert_problem(response, 422, "too_many_files")["field"] == "image"


@pytest.mark.parametrize("name", ["Image", "picture", "image[0]", "[]"])
def test_form_without_an_image_field_is_rejected(client, shirt, name):
    assert assert_problem(client.post("/v1/classify", files={name: shirt}), 422, "missing_image")["field"] == "image"


URLS = [
    "http://127.0.0.1/a.png",
    "HTTPS://example.com/a.png",
    " http://169.254.169.254/latest/meta-data",
    "http://127.1/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://100.64.0.1/",
    "http://[64:ff9b::7f00:1]/",
    "http://0x7f000001/",
    "file:///etc/passwd",
    "ftp://127.0.0.1/a.png",
    "gopher://127.0.0.1:70/",
    "jar:http://127.0.0.1!/a",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("encoding", ["form", "JSON"])
def test_url_in_place_of_an_image_is_rejected(client, url, encoding):
    as_form = {"content": form_of_text(url), "headers": BOUNDARY}
    response = client.post("/v1/classify", **(as_form if encoding == "form" else {"json": {"image": url}}))
    assert assert_problem(response, 422, "urls_not_accepted")["field"] == "image"


def form_of_text(value: str) -> str:
    return f'--cut\r\nContent-Disposition: form-data; name="image"\r\n\r\n{value}\r\n--cut--\r\n'


def test_handwritten_form_is_parsed(client, shirt):
    assert client.post("/v1/classify", content=multipart_body(shirt), headers=BOUNDARY).status_code == 200


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", multipart_body(b"x")),
        ("multipart/form-data; boundary=other", multipart_body(b"x")),
        ("multipart/form-data; boundary=" + "x" * 10_000, multipart_body(b"x")),
        ("multipart/form-data; boundary=cut", b"junk"),
        ("multipart/form-data; boundary=cut", multipart_body(b"x").replace(b'name="image"; ', b"")),
        ("multipart/form-data; boundary=cut", multipart_body(b"x").replace(b"Content-Disposition", b"Content\0Disposition")),
        ("multipart/form-data; boundary=cut", multipart_body(b"x").replace(b"Content-Disposition", b"X-Disposition")),
    ],
)
def test_invalid_form_is_rejected(client, content_type, body):
    assert_problem(client.post("/v1/classify", content=body, headers={"Content-Type": content_type}), 400, "bad_multipart")


@pytest.mark.parametrize("missing", [len(b"--cut--\r\n"), 30])
def test_truncated_form_is_rejected(client, shirt, missing):
    assert_problem(
        client.post("/v1/classify", content=multipart_body(shirt)[:-missing], headers=BOUNDARY), 400, "bad_multipart"
    )


def test_form_with_too_many_fields_is_rejected(client, shirt):
    fields = {f"field{number}": "x" for number in range(100)}
    assert_problem(client.post("/v1/classify", files={"image": shirt}, data=fields), 422, "unknown_field")


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/html",
        "application/xml",
        "application/vnd.bentoml+pickle",
        "image",
    ],
)
def test_unsupported_media_type_is_rejected(client, shirt, content_type):
    response = client.post("/v1/classify", content=shirt, headers={"Content-Type": content_type})
    assert_problem(response, 415, "unsupported_media_type")


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "identity, gzip"])
def test_compressed_body_is_rejected(client, shirt, encoding):
    headers = {"Content-Type": "image/png", "Content-Encoding": encoding}
    assert_problem(client.post("/v1/classify", content=shirt, headers=headers), 415, "content_encoding")


def test_image_sent_as_json_is_rejected_as_media_type(client, shirt):
    assert_problem(client.post("/v1/classify", content=shirt, headers=JSON), 415, "unsupported_media_type")


@pytest.mark.parametrize("body", [b'{"image": "", ' + b'"a": 1, ' * 1000 + b'"b": 1}', b'{"image": ' + b'{"a": ' * 101])
def test_json_with_too_many_fields_is_rejected_unparsed(client, body):
    assert_problem(client.post("/v1/classify", content=body, headers=JSON), 400, "bad_json")


@pytest.mark.parametrize("content_type", ["image/png", "application/json", "multipart/form-data; boundary=cut"])
def test_body_over_the_limit_is_rejected_with_the_limit(strict, content_type):
    response = strict.post("/v1/classify", content=bytes(1001), headers={"Content-Type": content_type})
    limit = {"name": "max_body_bytes", "value": 1000, "setting": "GRAFT_MAX_BODY_BYTES"}
    assert assert_problem(response, 413, "body_too_large")["limit"] == limit


def test_body_at_the_limit_is_read(strict):
    assert_problem(strict.post("/v1/classify", content=bytes(1000)), 415, "unsupported_format")


class RawClient:
    """Sends one request directly over ASGI, for bodies that no client would send."""

    def __init__(self, app: Starlette, messages: list[dict[str, Any]], **headers: str) -> None:
        self.received, self.received_before_answer, self.sent = 0, 0, list[dict[str, Any]]()
        given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/classify",
            "raw_path": b"/v1/classify",
            "root_path": "",
            "query_string": b"",
            "headers": given,
        }

        async def receive() -> dict[str, Any]:
            if self.received == len(messages):
                await asyncio.Event().wait()  # the client sends nothing more
            self.received += 1
            return messages[self.received - 1]

        async def send(message: Any) -> None:
            if not self.sent:
                self.received_before_answer = self.received
            self.sent.append(message)

        asyncio.run(app(scope, receive, send))
        self.status = self.sent[0]["status"] if self.sent else None
        self.body = b"".join(message.get("body", b"") for message in self.sent)


def chunk(content: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": content, "more_body": more}


def test_content_length_over_the_limit_is_rejected_unread(model):
    with asgi_app(model, max_body_bytes=1000) as app:
        raw = RawClient(app, [chunk(bytes(1001), more=False)], content_length="1001")
    assert (raw.status, json.loads(raw.body)["code"]) == (413, "body_too_large")
    assert raw.received_before_answer == 0


def test_chunked_body_is_rejected_once_it_is_too_large(model):
    with asgi_app(model, max_body_bytes=1000) as app:
        raw = RawClient(app, [*[chunk(bytes(100))] * 50, chunk(b"", more=False)], transfer_encoding="chunked")
    assert (raw.status, json.loads(raw.body)["code"]) == (413, "body_too_large")
    assert raw.received_before_answer == 11


def test_rejected_body_is_drained_before_the_connection_closes(model):
    with asgi_app(model, max_body_bytes=1000) as app:
        raw = RawClient(app, [*[chunk(bytes(100))] * 50, chunk(b"", more=False)], transfer_encoding="chunked")
    assert (b"Connection", b"close") in [(name.title(), value) for name, value in raw.sent[0]["headers"]]
    assert (raw.received, raw.sent[-1].get("more_body", False)) == (51, False)


def test_chunked_body_is_joined(model, shirt):
    with asgi_app(model) as app:
        raw = RawClient(app, [chunk(shirt[:50]), chunk(b""), chunk(shirt[50:]), chunk(b"", more=False)])
    assert raw.status == 200


def test_body_that_never_ends_is_rejected_at_the_deadline(model, shirt):
    with asgi_app(model, read_deadline_s=0.01) as app:
        raw = RawClient(app, [chunk(shirt[:50])])
    fields = json.loads(raw.body)
    assert (raw.status, fields["code"]) == (408, "slow_upload")
    assert fields["limit"] == {"name": "read_deadline_s", "value": 0.01, "setting": "GRAFT_READ_DEADLINE_S"}


def test_client_disconnect_is_not_logged_as_an_error(model, shirt, caplog):
    with asgi_app(model) as app:
        raw = RawClient(app, [chunk(shirt[:50]), {"type": "http.disconnect"}])
    assert (raw.sent, [record for record in caplog.records if record.levelname != "INFO"]) == ([], [])


def test_request_over_max_waiting_is_rejected(model, shirt):
    held = BlockingEngine(model)
    with (
        asgi_app(Model(model.artifact, held), max_waiting=1) as app,
        TestClient(app) as client,
        ThreadPoolExecutor(1) as executor,
    ):
        first = executor.submit(client.post, "/v1/classify", content=shirt)
        try:
            assert held.started.wait(TIMEOUT_S)
            second = client.post("/v1/classify", content=shirt)
        finally:
            held.release.set()
        assert first.result(TIMEOUT_S).status_code == 200
    limit = {"name": "max_waiting", "value": 1, "setting": "GRAFT_MAX_WAITING"}
    assert assert_problem(second, 503, "overloaded")["limit"] == limit
    assert second.headers["Retry-After"] in ("1", "2", "3")


def test_limits_are_available_under_overload(model, shirt):
    held = BlockingEngine(model)
    with (
        asgi_app(Model(model.artifact, held), max_waiting=1) as app,
        TestClient(app) as client,
        ThreadPoolExecutor(1) as executor,
    ):
        executor.submit(client.post, "/v1/classify", content=shirt)
        try:
            assert held.started.wait(TIMEOUT_S)
            assert client.get("/v1/limits").status_code == 200
        finally:
            held.release.set()


def test_image_past_its_queue_deadline_is_rejected(model, shirt):
    with asgi_app(model, queue_deadline_s=1e-9) as app, TestClient(app) as client:
        assert_problem(client.post("/v1/classify", content=shirt), 503, "overloaded")


def test_nan_logits_are_an_error(model, shirt):
    with asgi_app(Model(model.artifact, BrokenEngine())) as app, TestClient(app) as client:
        assert_problem(client.post("/v1/classify", content=shirt), 500, "model_output_invalid")


def test_nan_vectors_are_an_error(model, shirt):
    class BrokenVectors(BrokenEngine):
        def __call__(self, batch: Pixels) -> Outputs:
            return Outputs(np.zeros((len(batch), 10), np.float32), np.full((len(batch), 1280), np.nan, np.float32))

    with asgi_app(Model(model.artifact, BrokenVectors())) as app, TestClient(app) as client:
        assert_problem(client.post("/v1/classify", content=shirt), 500, "model_output_invalid")


def test_internal_error_reveals_no_details(model, shirt):
    with asgi_app(BuggyModel(model.artifact, model.engine)) as app, TestClient(app) as client:
        response = client.post("/v1/classify", content=shirt)
    assert_problem(response, 500, "internal")
    assert not any(word in response.text for word in ("secret", "Traceback", "KeyError", "routes.py"))


def test_internal_error_is_logged_with_the_request_id(model, shirt, caplog):
    with asgi_app(BuggyModel(model.artifact, model.engine)) as app, TestClient(app) as client:
        client.post("/v1/classify", content=shirt, headers={"X-Request-ID": "find-me"})
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert (record.name, record.fields["request_id"], "/secret/path" in record.exc_text) == ("graft", "find-me", True)


@pytest.mark.parametrize(
    ("method", "right", "path"),
    [(method, right, path) for method in METHODS for right, path in EVERY_PATH if method != right],
)
def test_wrong_method_gets_an_allow_header(client, method, right, path):
    response = client.request(method, path)
    assert_problem(response, 405, "method_not_allowed")
    assert right in response.headers["Allow"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/classify/", "/v1//classify", "/v1/", "/v1", "/v1/%ff"])
def test_an_unknown_path_is_not_found(client, method, path):
    assert_problem(client.request(method, path), 404, "not_found")


@pytest.mark.parametrize("given", ["a", "3f2b-Za_z.9", "with space", "x" * 64])
def test_client_request_id_is_kept(client, given):
    assert client.get("/v1/labels", headers={"X-Request-ID": given}).headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["x" * 65, "a\tb", "caf\xe9".encode("latin-1"), b"a\x00b", ""])
def test_invalid_request_id_is_replaced(client, given):
    found = client.get("/v1/labels", headers={"X-Request-ID": given}).headers["X-Request-ID"]
    assert (len(found), int(found, 16) > 0) == (32, True)


def test_request_ids_are_unique(client):
    assert len({client.get("/v1/labels").headers["X-Request-ID"] for _ in range(5)}) == 5


def test_problem_has_the_clients_request_id(client):
    assert assert_problem(client.get("/v1/nothing", headers={"X-Request-ID": "mine"}), 404, "not_found")["request_id"] == "mine"


def test_model_description(client, model):
    found = client.get("/v1/model").json()
    assert (found["sha256"], found["labels"]) == (model.manifest.sha256, list(model.manifest.labels))
    assert (found["device"], found["golden_difference"]) == (model.engine.device, model.golden_difference)
    assert found["scores"]["test"]["n"] == 500
    assert found["calibration"] == json.loads(model.manifest.calibration.model_dump_json())
    assert (found["multilabel"], found["temperature"]) == (False, model.manifest.temperature)
    assert (found["metric"], found["label_frequencies"]["assumed"]) == ("log-loss", [0.1] * 10)


def test_labels_are_in_output_order(client):
    assert client.get("/v1/labels").json() == {
        "labels": ["ankle boot", "bag", "coat", "dress", "pullover", "sandal", "shirt", "sneaker", "t-shirt", "trouser"]
    }


def test_labels_in_any_script_are_unchanged(model):
    labels = ("чай", "<b>käse</b>", "🧦", *model.manifest.labels[3:])
    manifest = model.manifest.model_copy(update={"labels": labels})
    foreign = Model(replace(model.artifact, manifest=manifest), model.engine)
    with asgi_app(foreign) as app, TestClient(app) as client:
        assert client.get("/v1/labels").json()["labels"][:3] == ["чай", "<b>käse</b>", "🧦"]


def test_limits_name_their_settings(strict):
    limits = strict.get("/v1/limits").json()["limits"]
    assert {"name": "max_body_bytes", "value": 1000, "setting": "GRAFT_MAX_BODY_BYTES"} in limits
    assert {"name": "max_pixels", "value": 10_000, "setting": "GRAFT_MAX_PIXELS"} in limits


def test_concurrent_clients_get_their_own_results(client, model, clothes):
    expected = [model.classify(encoded, 1).ranked[0].label for _, encoded in clothes]

    def classify(encoded: bytes) -> str:
        return client.post("/v1/classify", files={"image": io.BytesIO(encoded)}).json()["predictions"][0]["label"]

    with ThreadPoolExecutor(5) as callers:
        assert list(callers.map(classify, [encoded for _, encoded in clothes])) == expected
