"""What is odd about files that can be read is said once for each kind, with how many and which."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.service.imaging.preprocess import EXIF_ORIENTATION
from graft.training.audit.data_audit import audit
from graft.training.audit.image_scan import examine
from graft.training.data.dataset import scan
from graft.training.data.findings import Finding

# EXIF whose table promises twelve bytes and ends after ten.
CUT_EXIF = b"Exif\0\0II*\0\x08\0\0\0\x10\0\x12\x01\x03\0\x01\0\0\0\x06\0"


def found(folder: Path) -> dict[str, Finding]:
    return {finding.kind: finding for finding in audit(*examine(scan(folder)))}


def noise(height: int = 40, width: int = 40, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def photos(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def twelve(make_folder) -> Path:
    """Twelve images each of two labels, in which nothing is odd."""
    return make_folder({"cat": 12, "dog": 12})


def turned(encode: Callable[..., bytes]) -> bytes:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    return encode(noise(), "JPEG", exif=exif)


def transparent(encode: Callable[..., bytes]) -> bytes:
    see_through = Image.fromarray(noise()).convert("RGBA")
    see_through.putalpha(100)
    return encode(see_through)


def animated(encode: Callable[..., bytes]) -> bytes:
    frames = [Image.fromarray(noise(seed=seed)) for seed in (1, 2)]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


def sixteen_bit(encode: Callable[..., bytes]) -> bytes:
    return encode(Image.fromarray(np.random.default_rng(3).integers(0, 2**16, (40, 40), dtype=np.uint16)))


def print_colours(encode: Callable[..., bytes]) -> bytes:
    return encode(Image.fromarray(noise()).convert("CMYK"), "JPEG")


def grey(encode: Callable[..., bytes]) -> bytes:
    return encode(Image.fromarray(noise()).convert("L"))


@pytest.mark.parametrize(
    ("name", "made", "kind", "said"),
    [
        ("odd.jpg", turned, "rotated", "1 image turned by their EXIF orientation, here as when serving: cat/odd.jpg"),
        ("odd.png", transparent, "transparent", "1 image with transparency, seen on white: cat/odd.png"),
        ("odd.gif", animated, "animated", "1 image animated or of several frames; the first is used: cat/odd.gif"),
        ("odd.png", sixteen_bit, "16-bit", "1 image with 16 bits, read as 8: cat/odd.png"),
        ("odd.jpg", print_colours, "cmyk", "1 image in print colours (CMYK), read as RGB: cat/odd.jpg"),
        ("odd.png", grey, "grey-among-colour", "1 image without colour among coloured ones: cat/odd.png"),
    ],
)
def test_what_is_read_in_its_own_way_is_noted_with_its_count(twelve: Path, encode, name: str, made, kind: str, said: str):
    noted = found(photos(twelve / "cat", {name: made(encode)}).parent)[kind]
    assert (noted.severity, noted.text, noted.paths) == ("note", said, (f"cat/{name}",))


def test_name_that_says_another_format_is_noted_and_the_bytes_decide(twelve: Path, encode):
    photos(twelve / "cat", {"a.jpg": encode(noise(seed=1)), "b": encode(noise(seed=2), "WEBP")})
    noted = found(twelve)["wrong-extension"]
    assert noted.severity == "note"
    assert noted.text.endswith("read by their bytes: cat/a.jpg is PNG, cat/b is WEBP")


@pytest.mark.parametrize("name", ["a.JPG", "a.jpeg", "a.JPE", "a.jfif"])
def test_every_spelling_of_a_suffix_is_right(twelve: Path, encode, name: str):
    assert "wrong-extension" not in found(photos(twelve / "cat", {name: encode(noise(), "JPEG")}).parent)


def test_names_without_any_suffix_are_nobody_s_mistake(twelve: Path):
    for path in twelve.rglob("*.png"):
        path.rename(path.with_suffix(""))
    assert "wrong-extension" not in found(twelve)


def test_complaints_while_reading_are_a_warning(twelve: Path, encode):
    warned = found(photos(twelve / "cat", {"odd.jpg": encode(noise(), "JPEG", exif=CUT_EXIF)}).parent)["read-with-warnings"]
    assert (warned.severity, warned.paths) == ("warning", ("cat/odd.jpg",))
    assert "cat/odd.jpg (Corrupt EXIF data" in warned.text


def test_picture_that_ends_in_flat_grey_is_a_warning(twelve: Path, encode):
    whole = encode(noise(200, 200), "JPEG", quality=95)
    half = whole[: len(whole) // 2] + b"\xff\xd9"  # closed, as a broken copy is: no decoder complains
    warned = found(photos(twelve / "cat", {"half.jpg": half}).parent)["cut-short"]
    assert (warned.severity, warned.paths) == ("warning", ("cat/half.jpg",))


@pytest.mark.parametrize(
    ("shape", "kind"), [((8, 8), "tiny-image"), ((20, 400), "extreme-aspect"), ((400, 20), "extreme-aspect")]
)
def test_image_of_quite_another_shape_is_a_warning(twelve: Path, encode, shape: tuple[int, int], kind: str):
    warned = found(photos(twelve / "cat", {"odd.png": encode(noise(*shape))}).parent)[kind]
    assert (warned.severity, warned.paths) == ("warning", ("cat/odd.png",))


def test_image_of_one_colour_is_a_warning(twelve: Path, encode):
    warned = found(photos(twelve / "cat", {"odd.png": encode(Image.new("RGB", (40, 40), "navy"))}).parent)["blank"]
    assert (warned.severity, warned.paths) == ("warning", ("cat/odd.png",))


def test_sizes_that_differ_tenfold_are_noted(twelve: Path, encode):
    photos(twelve / "cat", {f"large-{number}.png": encode(noise(400, 400, number)) for number in range(2)})
    assert found(twelve)["size-spread"].text == "Images of very different sizes: shorter sides from 40 to 400 pixels"


def test_label_of_few_images_is_a_warning_with_their_number(make_folder):
    warned = found(make_folder({"cat": 12, "dog": 5, "emu": 9}))["tiny-class"]
    assert warned.severity == "warning"
    assert warned.text.endswith("little can be learned or measured: dog (5), emu (9)")


def test_label_of_one_or_two_images_is_an_error_with_their_number(make_folder):
    errors = [f.text for f in audit(*examine(scan(make_folder({"cat": 12, "dog": 2, "emu": 1})))) if f.severity == "error"]
    assert errors == [
        "The label 'dog' has 2 different images; at least 4 are needed.",
        "The label 'emu' has 1 different image; at least 4 are needed.",
    ]


def test_imbalance_is_a_warning_with_numbers_and_a_way_out(make_folder):
    kinds = found(make_folder({"cat": 100, "dog": 100, "emu": 4}, side=8))
    assert kinds["imbalance"].severity == "warning"
    assert kinds["imbalance"].text == (
        "cat has 100 images and emu 4, 25 times fewer: read balanced accuracy, and consider --balance"
    )
    assert "huge-class" not in kinds


def test_label_that_has_most_of_all_images_is_a_warning(make_folder):
    warned = found(make_folder({"cat": 100, "dog": 5, "emu": 4}, side=8))["huge-class"]
    assert warned.text == "cat has 92% of all images, so always answering it would look good"


def test_test_images_make_no_label_larger(make_folder):
    kinds = found(make_folder({"train/cat": 12, "train/dog": 12, "test/cat": 150, "test/dog": 2}, side=8))
    assert not {"imbalance", "huge-class", "tiny-class"} & set(kinds)


def test_ordinary_images_are_nothing_to_talk_about(twelve: Path):
    assert found(twelve) == {}


def test_file_of_many_kinds_of_damage_is_only_damaged(twelve: Path):
    content = io.BytesIO()
    Image.fromarray(noise(8, 400)).save(content, "PNG")
    photos(twelve / "cat", {"odd.jpg": content.getvalue()[:-50]})
    assert set(found(twelve)) == {"unreadable"}
