"""Unsupported photo formats are recognized by content, whatever the file is called, and other files are not."""

import pytest

from graft.service.imaging.formats import SUFFIXES, detect_format
from graft.service.imaging.unsupported import SUFFIXES as UNSUPPORTED_SUFFIXES
from graft.service.imaging.unsupported import is_photo


def isobmff(*brands: bytes) -> bytes:
    return (8 + 4 * len(brands) + 4).to_bytes(4) + b"ftyp" + brands[0] + b"\0\0\0\0" + b"".join(brands[1:])


@pytest.mark.parametrize(
    "head",
    [
        b"\0\0\0\x0cJXL \r\n\x87\n",
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"FUJIFILMCCD-RAW",
        isobmff(b"crx "),
    ],
)
def test_unsupported_photos_are_recognized(head):
    assert is_photo(head)
    assert detect_format(head) is None


@pytest.mark.parametrize(
    "head", [b"", b"\xff\x0a", b"P1 of the protocol", b"PK\x03\x04", b"%PDF-1.7", b"<html>", isobmff(b"isom"), isobmff(b"mp42")]
)
def test_other_files_are_not(head):
    assert not is_photo(head)


def test_no_suffix_is_both_supported_and_unsupported():
    assert set() == SUFFIXES & UNSUPPORTED_SUFFIXES
