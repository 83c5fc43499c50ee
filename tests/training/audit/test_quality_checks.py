"""Quality checks: one finding per kind of problem, with the number of files and their paths."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.service.imaging.preprocess import EXIF_ORIENTATION
from graft.training.audit.data_audit import audit
from graft.training.audit.image_scan import scan_images
from graft.training.data.dataset import scan
from graft.training.data.findings import Finding

# EXIF with a table entry of twelve bytes that ends after ten.
CUT_EXIF = b"Exif\0\0II*\0\x08\0\0\0\x10\0\x12\x01\x03\0\x01\0\0\0\x06\0"


DEEP = "1 image with more than 8 bits per channel, converted to 8 by dividing by"


def audited(folder: Path) -> dict[str, Finding]:
    return {finding.kind: finding for finding in audit(*scan_images(scan(folder)))}


def noise(height: int = 40, width: int = 40, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def ordinary(make_folder) -> Path:
    """Two labels with twelve ordinary images each."""
    return make_folder({"cat": 12, "dog": 12})


def rotated(encode: Callable[..., bytes]) -> bytes:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    return encode(noise(), "JPEG", exif=exif)


def transparent(encode: Callable[..., bytes]) -> bytes:
    image = Image.fromarray(noise()).convert("RGBA")
    image.putalpha(100)
    return encode(image)


def animated(encode: Callable[..., bytes]) -> bytes:
    frames = [Image.fromarray(noise(seed=seed)) for seed in (1, 2)]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


def sixteen_bit(encode: Callable[..., bytes]) -> bytes:
    return encode(Image.fromarray(np.random.default_rng(3).integers(0, 2**16, (40, 40), dtype=np.uint16)))


def twelve_bit(encode: Callable[..., bytes]) -> bytes:
    return encode(Image.fromarray(np.random.default_rng(3).integers(0, 2**12, (40, 40), dtype=np.uint16)), "TIFF")


def many_pages(encode: Callable[..., bytes]) -> bytes:
    return encode(Image.fromarray(noise(seed=1)), "TIFF", save_all=True, append_images=[Image.fromarray(noise(seed=2))])


def cmyk(encode: Callable[..., bytes]) -> bytes:
    return encode(Image.fromarray(noise()).convert("CMYK"), "JPEG")


def grayscale(encode: Callable[..., bytes]) -> bytes:
    return encode(Image.fromarray(noise()).convert("L"))


@pytest.mark.parametrize(
    ("name", "make_image", "kind", "expected"),
    [
        ("odd.jpg", rotated, "rotated", "1 image rotated by EXIF orientation, in training and serving: cat/odd.jpg"),
        ("odd.png", transparent, "transparent", "1 image with transparency, composited on white: cat/odd.png"),
        ("odd.gif", animated, "animated", "1 image animated or with several frames; the first frame is used: cat/odd.gif"),
        ("odd.png", sixteen_bit, "16-bit", f"{DEEP} 65,535, the largest value of 16 bits: cat/odd.png"),
        ("odd.png", twelve_bit, "16-bit", f"{DEEP} 4,095, the largest value of 12 bits: cat/odd.png"),
        ("odd.tif", many_pages, "multi-page", "1 image with several pages; the first page is used: cat/odd.tif"),
        ("odd.jpg", cmyk, "cmyk", "1 image in CMYK, converted to RGB: cat/odd.jpg"),
        ("odd.png", grayscale, "gray-among-color", "1 image in grayscale among color images: cat/odd.png"),
    ],
)
def test_conversion_is_noted_with_its_count(ordinary: Path, encode, name: str, make_image, kind: str, expected: str):
    note = audited(write_files(ordinary / "cat", {name: make_image(encode)}).parent)[kind]
    assert (note.severity, note.text, note.paths) == ("note", expected, (f"cat/{name}",))


def test_wrong_extension_is_noted_and_content_decides(ordinary: Path, encode):
    write_files(ordinary / "cat", {"a.jpg": encode(noise(seed=1)), "b": encode(noise(seed=2), "WEBP")})
    note = audited(ordinary)["wrong-extension"]
    assert note.severity == "note"
    assert note.text.endswith("read by content: cat/a.jpg is PNG, cat/b is WEBP")


@pytest.mark.parametrize("name", ["a.JPG", "a.jpeg", "a.JPE", "a.jfif"])
def test_every_spelling_of_an_extension_is_accepted(ordinary: Path, encode, name: str):
    assert "wrong-extension" not in audited(write_files(ordinary / "cat", {name: encode(noise(), "JPEG")}).parent)


def test_names_without_extensions_are_not_reported_if_all_lack_them(ordinary: Path):
    for path in ordinary.rglob("*.png"):
        path.rename(path.with_suffix(""))
    assert "wrong-extension" not in audited(ordinary)


def test_decoder_warnings_are_a_warning(ordinary: Path, encode):
    write_files(ordinary / "cat", {"odd.jpg": encode(noise(), "JPEG", exif=CUT_EXIF)})
    warning = audited(ordinary)["read-with-warnings"]
    assert (warning.severity, warning.paths) == ("warning", ("cat/odd.jpg",))
    assert "cat/odd.jpg (Corrupt EXIF data" in warning.text


def test_image_that_ends_in_flat_gray_is_a_warning(ordinary: Path, encode):
    complete = encode(noise(200, 200), "JPEG", quality=95)
    half = complete[: len(complete) // 2] + b"\xff\xd9"  # ends with an end-of-image marker, so the decoder reports no error
    warning = audited(write_files(ordinary / "cat", {"half.jpg": half}).parent)["cut-short"]
    assert (warning.severity, warning.paths) == ("warning", ("cat/half.jpg",))


@pytest.mark.parametrize(
    ("shape", "kind"), [((8, 8), "tiny-image"), ((20, 400), "extreme-aspect"), ((400, 20), "extreme-aspect")]
)
def test_image_of_very_different_size_or_aspect_ratio_is_a_warning(ordinary: Path, encode, shape: tuple[int, int], kind: str):
    warning = audited(write_files(ordinary / "cat", {"odd.png": encode(noise(*shape))}).parent)[kind]
    assert (warning.severity, warning.paths) == ("warning", ("cat/odd.png",))


def test_blank_image_is_a_warning(ordinary: Path, encode):
    write_files(ordinary / "cat", {"odd.png": encode(Image.new("RGB", (40, 40), "navy"))})
    warning = audited(ordinary)["blank"]
    assert (warning.severity, warning.paths) == ("warning", ("cat/odd.png",))


def test_tenfold_size_differences_are_noted(ordinary: Path, encode):
    write_files(ordinary / "cat", {f"large-{number}.png": encode(noise(400, 400, number)) for number in range(2)})
    assert audited(ordinary)["size-spread"].text == "Images of very different sizes: shorter sides from 40 to 400 pixels"


def test_label_with_few_images_is_a_warning_with_the_count(make_folder):
    warning = audited(make_folder({"cat": 12, "dog": 5, "emu": 9}))["tiny-class"]
    assert warning.severity == "warning"
    assert warning.text.endswith("too few to learn or measure much: dog (5), emu (9)")


def test_label_with_one_or_two_images_is_an_error_with_the_count(make_folder):
    errors = [f.text for f in audit(*scan_images(scan(make_folder({"cat": 12, "dog": 2, "emu": 1})))) if f.severity == "error"]
    assert errors == [
        "The label 'dog' has 2 distinct images; at least 4 are needed.",
        "The label 'emu' has 1 distinct image; at least 4 are needed.",
    ]


def test_imbalance_is_a_warning_with_counts_and_a_remedy(make_folder):
    findings = audited(make_folder({"cat": 100, "dog": 100, "emu": 4}, side=8))
    assert findings["imbalance"].severity == "warning"
    assert findings["imbalance"].text == (
        "cat has 100 images and emu 4, 25 times fewer: read balanced accuracy, and consider --metric balanced-accuracy"
    )
    assert "huge-class" not in findings


def test_majority_label_is_a_warning(make_folder):
    warning = audited(make_folder({"cat": 100, "dog": 5, "emu": 4}, side=8))["huge-class"]
    assert warning.text == "cat has 92% of all images, so always predicting it gives a high accuracy"


def test_test_images_do_not_count(make_folder):
    findings = audited(make_folder({"train/cat": 12, "train/dog": 12, "test/cat": 150, "test/dog": 2}, side=8))
    assert not {"imbalance", "huge-class", "tiny-class"} & set(findings)


def test_ordinary_images_have_no_findings(ordinary: Path):
    assert audited(ordinary) == {}


def test_file_with_several_problems_is_only_reported_as_unreadable(ordinary: Path):
    content = io.BytesIO()
    Image.fromarray(noise(8, 400)).save(content, "PNG")
    write_files(ordinary / "cat", {"odd.jpg": content.getvalue()[:-50]})
    assert set(audited(ordinary)) == {"unreadable"}


def deep_images(folder: Path, encode: Callable[..., bytes], largest: dict[str, int]) -> Path:
    """Add 16-bit images with values up to the given ones."""
    for name, value in largest.items():
        pixels = np.random.default_rng(len(name) + value).integers(0, value, (40, 40), dtype=np.uint16)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode(Image.fromarray(pixels)))
    return folder


def test_sample_bits_are_those_of_all_learned_images(ordinary: Path, encode):
    deep_images(ordinary, encode, {"cat/dark.png": 900, "cat/bright.png": 4000})
    assert scan_images(scan(ordinary))[0].sample_bits == 12


def test_sample_bits_do_not_come_from_given_test_images(make_folder, encode):
    folder = make_folder({"train/cat": 2, "train/dog": 2, "test/cat": 2, "test/dog": 2})
    deep_images(folder, encode, {"train/cat/a.png": 900, "test/cat/a.png": 60_000})
    assert scan_images(scan(folder))[0].sample_bits == 10


def test_sample_bits_are_unknown_without_deep_images(ordinary: Path):
    assert scan_images(scan(ordinary))[0].sample_bits is None


def test_images_of_fewer_bits_among_deeper_ones_are_a_warning(ordinary: Path, encode):
    deep_images(ordinary, encode, {"cat/a.png": 60_000, "cat/b.png": 4000, "dog/c.png": 50_000})
    warning = audited(ordinary)["depth-spread"]
    assert (warning.severity, warning.paths) == ("warning", ("cat/b.png",))
    assert warning.text.startswith("1 image with values of at most 12 bits among images of 16, so very dark")


def test_dark_12_bit_images_among_bright_ones_are_no_warning(ordinary: Path, encode):
    deep_images(ordinary, encode, {"cat/a.png": 4000, "cat/b.png": 200})
    assert "depth-spread" not in audited(ordinary)


def test_dark_12_bit_images_are_neither_blank_nor_near_duplicates(ordinary: Path, encode):
    deep_images(ordinary, encode, {"cat/a.png": 4000, "cat/b.png": 3900})
    assert {"blank", "near-duplicate"} & set(audited(ordinary)) == set()


def test_formats_of_the_images_are_recorded(ordinary: Path, encode):
    write_files(ordinary / "cat", {"a.tif": encode(noise(seed=1), "TIFF"), "b.avif": encode(noise(seed=2), "AVIF")})
    assert scan_images(scan(ordinary))[0].formats == ("PNG", "TIFF", "AVIF")


def test_formats_that_a_service_accepts_only_with_such_training_images_are_noted(ordinary: Path, encode):
    write_files(ordinary / "cat", {"a.tif": encode(noise(seed=1), "TIFF"), "b.avif": encode(noise(seed=2), "AVIF")})
    notes = audited(ordinary)
    assert notes["tiff-format"].text == "1 image in TIFF; a service with this data's model accepts it"
    assert (notes["avif-format"].severity, "heic-format" in notes) == ("note", False)
