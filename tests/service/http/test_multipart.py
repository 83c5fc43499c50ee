"""The multipart/form-data parser."""

import pytest

from graft.service.http.multipart import MAX_PARTS, FormError, Part, TooManyParts, parse_form

TYPE = "multipart/form-data; boundary=cut"


def form(*fields: str) -> bytes:
    return b"".join(b"--cut\r\n" + field.encode() + b"\r\n" for field in fields) + b"--cut--\r\n"


def test_parts_are_in_order_and_complete():
    content = bytes(range(256)) * 10 + b"\r\n--cu\r\n-"
    body = b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nX: y\r\n\r\n' + content + b"\r\n"
    body += form('content-disposition: form-data; name="top_k"\r\n\r\n3')
    assert parse_form(body, TYPE) == [Part("image", content, True), Part("top_k", b"3", False)]


def test_preamble_and_epilogue_are_ignored():
    body = b"\r\n" + form("Content-Disposition: form-data; name=a\r\n\r\nb") + b"afterwards"
    assert parse_form(body, TYPE) == [Part("a", b"b", False)]


def test_field_name_may_be_non_ascii():
    assert parse_form(form('Content-Disposition: form-data; name="чай"\r\n\r\nb'), TYPE)[0].name == "чай"


@pytest.mark.parametrize("name", ["", "x" * 20_000, "../../x", "a;b"])
def test_any_file_name_marks_a_file(name):
    [part] = parse_form(form(f'Content-Disposition: form-data; name="image"; filename="{name}"\r\n\r\nb'), TYPE)
    assert part == Part("image", b"b", True)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"junk",
        b"--other\r\n\r\n--other--\r\n",
        form("Content-Disposition: form-data\r\n\r\nb"),
        form("X: y\r\n\r\nb"),
        form('Content-Disposition: attachment; name="a"\r\n\r\nb'),
        form('Content-Disposition: form-data; name="a"\r\n\r\nb')[:-6],
        form('Content-Disposition: form-data; name="a"\r\n\r\nb').replace(b'"a"', b'"\xff"'),
        form("X: " + "y" * 70_000 + '\r\nContent-Disposition: form-data; name="a"\r\n\r\nb'),
    ],
)
def test_invalid_form_is_rejected(body):
    with pytest.raises(FormError):
        parse_form(body, TYPE)


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=", "", "multipart/form-data; cut"]
)
def test_missing_boundary_is_rejected(content_type):
    with pytest.raises(FormError, match="boundary"):
        parse_form(form('Content-Disposition: form-data; name="a"\r\n\r\nb'), content_type)


def test_form_with_too_many_parts_is_rejected():
    with pytest.raises(TooManyParts):
        parse_form(form(*['Content-Disposition: form-data; name="a"\r\n\r\nb'] * (MAX_PARTS + 1)), TYPE)
