"""Mutates images as long as it is told, and fails on anything but an ImageError. Not a test by itself: test_fuzz.py runs it.

python tests/fuzz_decode.py -runs=5000 SEEDS    libFuzzer's arguments; the folder SEEDS is filled if it is empty
"""

import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "service"]):
    from PIL import Image, PngImagePlugin  # noqa: F401

    from graft.service.errors import ImageError
    from graft.service.imaging import preprocess
    from graft.service.imaging.headers import ImageLimits, check, sniff

from types import SimpleNamespace

from hostile_corpus import corpus

LIMITS = ImageLimits(max_pixels=4_000_000)  # so that one run is fast
RECIPE = SimpleNamespace(resize=36, crop=32, fit="crop", interpolation="bicubic")
MOST_SEED_BYTES = 2**14


def once(encoded: bytes) -> None:
    """What a server and its child do with an image."""
    try:
        check(sniff(encoded), LIMITS)
        found = preprocess.decode(encoded, RECIPE, LIMITS)
    except ImageError:
        return
    assert found.pixels.shape == (32, 32, 3)


def plant(folder: Path) -> None:
    """The corpus' small files as seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        return
    for number, case in enumerate(corpus().values()):
        if len(case.content) <= MOST_SEED_BYTES:
            (folder / f"{number:03d}").write_bytes(case.content)


if __name__ == "__main__":
    # No mutation gets a checksum right; without them it is the chunks that are tried, and not only their sums.
    PngImagePlugin.ChunkStream.crc = lambda stream, _cid, _content: stream.fp.read(4)
    warnings.simplefilter("ignore")
    for word in sys.argv[1:]:
        if not word.startswith("-"):
            plant(Path(word))
    atheris.Setup(sys.argv, once)
    atheris.Fuzz()
