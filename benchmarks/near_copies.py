"""Recall and false alarms of the search for near copies, by kind of copy.

    .venv/bin/python benchmarks/near_copies.py [--photos 150] [--json]

Takes photos of each set in ../shared/data whose images are large enough to be compared by more than a hash, makes one copy of
each kind of each photo, and looks for copies among the whole set and the copies of one kind, as a fit does: scan, features,
neighbors, alignment. A copy counts as found if it is in one group with its original. False alarms are the pairs that are found
in the set itself. Some are true copies: flowers12 has cropped and enlarged ones, and
trashnet has things that were photographed twice without moving.

Writes benchmarks/results/near_copies.md, and near_copies.json, if `--photos` is as by default.
"""

import argparse
import io
import json
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from graft.training.audit.data_audit import read_and_audit
from graft.training.audit.image_scan import median_side
from graft.training.audit.near_copies import find_near_copies
from graft.training.backbones import onnx_cache, registry
from graft.training.config.recipe import Recipe
from graft.training.data.near_duplicates import connected_components
from graft.training.features.extraction import View, extract

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
RESULTS = Path(__file__).parent / "results"
SETS = ("flowers12", "hymenoptera", "trashnet", "imagenet-100")
N_PHOTOS = 150


def crop(image: Image.Image, share: float) -> Image.Image:
    """Without this share of each side."""
    x, y = round(share * image.width), round(share * image.height)
    return image.crop((x, y, image.width - x, image.height - y))


def crop_one_side(image: Image.Image, share: float) -> Image.Image:
    return image.crop((0, 0, round((1 - share) * image.width), image.height))


def watermark(image: Image.Image) -> Image.Image:
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    font = ImageFont.load_default(max(8, min(image.size) // 8))
    for share in (0.15, 0.45, 0.75):
        position = (0.1 * image.width, share * image.height)
        ImageDraw.Draw(layer).text(position, "SAMPLE (C)", (255, 255, 255, 140), font)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def frame(image: Image.Image, share: float, color: str) -> Image.Image:
    return ImageOps.expand(image, round(share * min(image.size)), color)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved again": lambda image: image,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "gray": lambda image: image.convert("L").convert("RGB"),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1.5 * min(image.size) / 256)),
    "mirrored": ImageOps.mirror,
    "mirrored and cropped by 2.5 % on each side": lambda image: crop(ImageOps.mirror(image), 0.025),
    "cropped by 2.5 % on each side": lambda image: crop(image, 0.025),
    "cropped by 10 % on each side": lambda image: crop(image, 0.1),
    "cropped by 10 % on one side": lambda image: crop_one_side(image, 0.1),
    "turned by 3°": lambda image: image.rotate(3, Image.Resampling.BICUBIC),
    "turned by 6°": lambda image: image.rotate(6, Image.Resampling.BICUBIC),
    "watermarked": watermark,
    "white frame of 5 %": lambda image: frame(image, 0.05, "white"),
    "black frame of 10 %": lambda image: frame(image, 0.1, "black"),
}


def find_groups(folder: Path) -> tuple[list[list[str]], int, float]:
    """Groups of paths that are copies of each other, the number of images, and the seconds of the search alone."""
    recipe = Recipe(allow_near_leaks=True)
    dataset, table, _ = read_and_audit(folder, recipe)
    backbone = registry.resolve(recipe.backbone, recipe.weights)
    exported = onnx_cache.load_or_export(backbone, None, median_side(table), recipe.fit, dataset.sample_bits)
    features = extract(dataset, map(View, dataset.samples), exported)
    started = time.monotonic()
    pairs = find_near_copies(dataset, table, features)
    seconds = time.monotonic() - started
    paths = {sample.digest: sample.path for sample in dataset.samples}
    return [[paths[digest] for digest in group] for group in connected_components(pairs)], len(paths), seconds


def unpack(name: str, folder: Path) -> list[Path]:
    """All images of a set, in one folder without splits."""
    images = []
    with zipfile.ZipFile(DATA / f"{name}.zip") as archive:
        for member in archive.namelist():
            path = Path(member)
            if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
                label = path.parent.name if name != "imagenet-100" else f"label{len(images) % 2}"
                images.append(folder / label / f"{path.parent.parent.name}-{path.name}")
                images[-1].parent.mkdir(parents=True, exist_ok=True)
                images[-1].write_bytes(archive.read(member))
    return sorted(images)


def measure(name: str, n_photos: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / name
        images = unpack(name, folder)
        groups, n_images, seconds = find_groups(folder)
        result: dict[str, object] = {"set": name, "images": n_images, "groups": groups, "seconds": seconds, "found": {}}
        grouped = {path for group in groups for path in group}
        photos = [path for path in images if str(path.relative_to(folder)) not in grouped]
        photos = photos[:: max(1, len(photos) // n_photos)][:n_photos]
        for kind, copy in COPIES.items():
            copies = {path.with_name(f"copy-{path.stem}.jpg"): path for path in photos}
            for target, source in copies.items():
                copy(Image.open(io.BytesIO(source.read_bytes())).convert("RGB")).save(target, quality=80)
            index_of = {path: index for index, group in enumerate(find_groups(folder)[0]) for path in group}
            names = [[str(path.relative_to(folder)) for path in pair] for pair in copies.items()]
            found = [one in index_of and index_of[one] == index_of.get(other) for one, other in names]
            result["found"][kind] = (sum(found), len(found))  # type: ignore[index]
            for path in copies:
                path.unlink()
        return result


def table(results: Sequence[dict[str, object]]) -> str:
    lines = [f"| copy | {' | '.join(str(result['set']) for result in results)} | all |", "|---" * (len(results) + 2) + "|"]
    for kind in COPIES:
        counts = [result["found"][kind] for result in results]  # type: ignore[index]
        counts.append((sum(n for n, _ in counts), sum(n for _, n in counts)))
        lines.append(f"| {kind} | {' | '.join(f'{found / n:.2f}' for found, n in counts)} |")
    clean = " | ".join(f"{len(result['groups'])} in {result['images']:,}" for result in results)  # type: ignore[arg-type]
    lines.append(f"| groups in the set itself | {clean} | |")
    search = " | ".join(f"{1e3 * result['seconds'] / result['images']:.1f}" for result in results)  # type: ignore[operator]
    return "\n".join([*lines, f"| ms per image of the search | {search} | |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=int, default=N_PHOTOS, help="photos of each set that are copied")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = [measure(name, arguments.photos) for name in SETS]
    as_json = json.dumps(results, indent=2)
    if arguments.photos == N_PHOTOS:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "near_copies.json").write_text(as_json + "\n", encoding="utf-8")
        (RESULTS / "near_copies.md").write_text(table(results) + "\n", encoding="utf-8")
    print(as_json if arguments.json else table(results))


if __name__ == "__main__":
    main()
