"""Every hostile file gets the expected status and code, from the decode function and over HTTP."""

from collections.abc import Iterator

import httpx
import pytest
from hostile_corpus import corpus

from graft.service.api.schemas import PROBLEMS
from graft.service.errors import ImageError
from graft.service.imaging.headers import ImageLimits, check_limits, read_header
from graft.service.imaging.preprocess import decode
from graft.service.manifest import Preprocessing

RECIPE = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CASES = corpus()


@pytest.fixture(scope="module")
def http_client(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=30) as client:
        yield client


def rejection_code(encoded: bytes) -> str | None:
    """The code of the first check that rejects a file; None if it is accepted."""
    try:
        check_limits(read_header(encoded), ImageLimits())
        decode(encoded, RECIPE)
    except ImageError as error:
        return error.code
    return None


def test_the_corpus_has_at_least_120_files():
    assert len(CASES) >= 120


@pytest.mark.parametrize("name", CASES)
def test_hostile_file_gets_expected_code(name):
    assert rejection_code(CASES[name].content) == CASES[name].decode_code


@pytest.mark.parametrize("name", CASES)
def test_code_matches_status(name):
    assert CASES[name].code is None or PROBLEMS[CASES[name].code][0] == CASES[name].status
    assert CASES[name].decode_code in {None, *PROBLEMS}


@pytest.mark.parametrize("name", CASES)
def test_hostile_file_gets_expected_response_over_http(http_client, name):
    case = CASES[name]
    response = http_client.post("/v1/classify", content=case.content, headers={"Content-Type": "image/jpeg"})
    assert (response.status_code, response.json().get("code")) == (case.status, case.code)


BOMB_CODES = {"image_too_large", "too_many_scans"}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.decode_code in BOMB_CODES])
def test_bomb_is_rejected_from_its_header(name):
    with pytest.raises(ImageError) as caught:
        check_limits(read_header(CASES[name].content), ImageLimits())
    assert caught.value.code == CASES[name].decode_code


@pytest.mark.parametrize("name", ["invisible PNG", "invisible WebP", "invisible GIF"])
def test_fully_transparent_image_is_noted(name):
    assert decode(CASES[name].content, RECIPE).notes == ("transparent: every pixel is fully transparent",)


@pytest.mark.parametrize("name", ["animated GIF", "animated WEBP", "animated PNG", "GIF of 10,000 frames"])
def test_animation_is_noted(name):
    assert "animated: first frame used" in decode(CASES[name].content, RECIPE).notes


def test_images_after_a_jpeg_are_not_counted_as_frames():
    found = decode(CASES["several JPEGs in one"].content, RECIPE)
    assert (found.format, found.notes) == ("JPEG", ())
