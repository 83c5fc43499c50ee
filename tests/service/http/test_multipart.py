"""The multipart/form-data parser."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from python_multipart.multipart import parse_form as parse_as_a_stream

from graft.service.http.multipart import MAX_HEADER_BYTES, MAX_PARTS, FormError, Part, TooManyParts, parse_form

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


def test_headers_of_all_parts_together_are_limited():
    name = "x" * 20_000
    n_parts = MAX_HEADER_BYTES // len(name) + 1
    with pytest.raises(FormError, match="headers"):
        parse_form(form(*[f'Content-Disposition: form-data; name="{name}"\r\n\r\nb'] * n_parts), TYPE)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("name=a", Part("a", b"b", False)),
        (r'name="a\"b\\"', Part('a"b\\', b"b", False)),
        ('filename="c;name=d" ; name="a"', Part("a", b"b", True)),
        ("name=a; filename*=UTF-8''%e2%82%ac.png", Part("a", b"b", True)),
        ("NAME=a; name=b", Part("a", b"b", False)),
        ('name=a; filename="C:\\images\\x.png"', Part("a", b"b", True)),
    ],
)
def test_parameters_are_read_as_browsers_write_them(parameters, expected):
    assert parse_form(form(f"Content-Disposition: form-data; {parameters}\r\n\r\nb"), TYPE) == [expected]


CONTENT = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"-", b"--", b"--cu", b"\0", b"image"])).map(b"".join)


@given(st.lists(st.tuples(st.sampled_from(["image", "top_k", "a b"]), CONTENT, st.booleans()), min_size=1, max_size=4))
def test_any_content_is_read_as_a_parser_of_streams_reads_it(fields):
    body = b"".join(
        b"--cut\r\n"
        + f'Content-Disposition: form-data; name="{name}"{"; filename=a.png" * is_file}\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content, is_file in fields
    )
    body += b"--cut--\r\n"
    expected = []
    parse_as_a_stream(
        {"Content-Type": TYPE.encode()},
        io.BytesIO(body),
        lambda field: expected.append((field.field_name.decode(), field.value or b"")),
        lambda file: expected.append((file.field_name.decode(), file.file_object.getvalue())),
    )
    found = parse_form(body, TYPE)
    assert sorted((part.name, part.content) for part in found) == sorted(expected)
    assert found == [Part(*field) for field in fields]
