"""Fuzzes image decoding and fails on any exception but ImageError. Run by tests/security/test_fuzz_decode.py.

python tests/support/fuzz_decode.py -runs=5000 SEEDS    libFuzzer arguments; an empty folder SEEDS is filled with seeds
"""

import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "service"]):
    from PIL import AvifImagePlugin, Image, PngImagePlugin, TiffImagePlugin  # noqa: F401

    from graft.service.errors import ImageError
    from graft.service.imaging import preprocess
    from graft.service.imaging.headers import ImageLimits, check_limits, read_header

from types import SimpleNamespace

from hostile_corpus import corpus

LIMITS = ImageLimits(max_pixels=4_000_000)  # keeps a single run fast
RECIPE = SimpleNamespace(resize=36, crop=32, fit="crop", interpolation="bicubic", sample_bits=None)
MAX_SEED_BYTES = 2**14


def fuzz_one(encoded: bytes) -> None:
    """Check and decode one image, as server and decode worker do."""
    try:
        check_limits(read_header(encoded), LIMITS)
        decoded = preprocess.decode(encoded, RECIPE, LIMITS)
    except ImageError:
        return
    assert decoded.pixels.shape == (32, 32, 3)


def write_seeds(folder: Path) -> None:
    """Write the small files of the hostile corpus as seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        return
    for number, case in enumerate(corpus().values()):
        if len(case.content) <= MAX_SEED_BYTES:
            (folder / f"{number:03d}").write_bytes(case.content)


if __name__ == "__main__":
    # Mutations break the checksums; without this, the fuzzer would never get past them.
    PngImagePlugin.ChunkStream.crc = lambda stream, _cid, _content: stream.fp.read(4)
    warnings.simplefilter("ignore")
    for argument in sys.argv[1:]:
        if not argument.startswith("-"):
            write_seeds(Path(argument))
    atheris.Setup(sys.argv, fuzz_one)
    atheris.Fuzz()
