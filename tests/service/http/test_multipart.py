"""Forms, taken apart."""

import pytest

from graft.service.http.multipart import MOST_PARTS, FormError, Part, TooManyParts, parts

TYPE = "multipart/form-data; boundary=cut"


def form(*fields: str) -> bytes:
    return b"".join(b"--cut\r\n" + field.encode() + b"\r\n" for field in fields) + b"--cut--\r\n"


def test_parts_come_in_their_order_with_every_byte():
    content = bytes(range(256)) * 10 + b"\r\n--cu\r\n-"
    body = b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nX: y\r\n\r\n' + content + b"\r\n"
    body += form('content-disposition: form-data; name="top_k"\r\n\r\n3')
    assert parts(body, TYPE) == [Part("image", content, True), Part("top_k", b"3", False)]


def test_what_stands_before_and_after_is_ignored():
    body = b"\r\n" + form("Content-Disposition: form-data; name=a\r\n\r\nb") + b"afterwards"
    assert parts(body, TYPE) == [Part("a", b"b", False)]


def test_a_name_may_be_of_any_script():
    assert parts(form('Content-Disposition: form-data; name="чай"\r\n\r\nb'), TYPE)[0].name == "чай"


@pytest.mark.parametrize("name", ["", "x" * 20_000, "../../x", "a;b"])
def test_a_file_is_one_whatever_it_is_called(name):
    [part] = parts(form(f'Content-Disposition: form-data; name="image"; filename="{name}"\r\n\r\nb'), TYPE)
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
def test_what_is_no_form_is_refused(body):
    with pytest.raises(FormError):
        parts(body, TYPE)


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=", "", "multipart/form-data; cut"]
)
def test_without_a_boundary_it_is_no_form(content_type):
    with pytest.raises(FormError, match="boundary"):
        parts(form('Content-Disposition: form-data; name="a"\r\n\r\nb'), content_type)


def test_a_form_of_absurdly_many_parts_is_not_read_to_its_end():
    with pytest.raises(TooManyParts):
        parts(form(*['Content-Disposition: form-data; name="a"\r\n\r\nb'] * (MOST_PARTS + 1)), TYPE)
