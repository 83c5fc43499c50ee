"""Files of keys: one on each line."""

import pytest

from graft.service.key_file import MAX_FILE_BYTES, read_keys

FIRST, SECOND = "correct horse battery", "staple of another kind"


@pytest.mark.parametrize(
    "content",
    [
        f"{FIRST}\n{SECOND}\n",
        f"{FIRST}\r\n{SECOND}",
        f"# of the shop, until March\n{FIRST}\n\n  # of the app\n\t{SECOND}  \n\n",
    ],
)
def test_blank_lines_and_comments_are_skipped(tmp_path, content):
    (tmp_path / "keys").write_bytes(content.encode())
    assert read_keys(tmp_path / "keys") == (FIRST, SECOND)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has no key"),
        (b"\n# " + FIRST.encode() + b"\n", "has no key"),
        (FIRST.encode() + b"\n\nfifteen letters\n", "line 3 of .* at least 16 characters"),
        (b"\xff\xfe" + FIRST.encode("utf-16-le"), "not UTF-8 text"),
        (FIRST.encode() + b"\n" * MAX_FILE_BYTES, "more than 65,536 bytes"),
    ],
)
def test_any_other_file_is_rejected_without_showing_a_key(tmp_path, content, reason):
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(ValueError, match=reason) as caught:
        read_keys(tmp_path / "keys")
    assert "fifteen" not in str(caught.value)
    assert FIRST not in str(caught.value)


def test_a_folder_is_no_file_of_keys(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        read_keys(tmp_path)
