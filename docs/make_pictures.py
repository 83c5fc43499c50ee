"""Takes the pictures of the README again: `make pictures`. Needs `chromium`, as the tests of the pages do.

Fits on the sample in a temporary folder, serves the package, and takes screenshots of the try-it page and of three parts of the
report.
"""

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from graft.training.config.recipe import Recipe
from graft.training.data.dataset import scan
from graft.training.pipelines import demo, fit
from graft.training.sample import SAMPLE

IMAGES = Path(__file__).parent / "images"
WIDTH, SCALE = 1280, 1.3  # CSS pixels; image pixels per CSS pixel
MAX_BYTES = 300_000
TIMEOUT_MS = 60_000
UPLOAD = "test/coat/010.png"
MARGIN = 96  # CSS pixels, beside the report
LOAD_IMAGES = "async () => { for (const image of document.images) { image.loading = 'eager'; await image.decode(); } }"


def main() -> None:
    """Writes page.png and report.png."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # A run in the default folder, so that the report shows the path that a reader gets.
        os.chdir(folder)
        result = fit.fit(SAMPLE, None, Recipe(strategy="probe"))
        with chromium_page() as page:
            with demo.running_server(result.artifact.path) as url:
                save(show_prediction(page, url), IMAGES / "page.png")
            save(show_report(page, result.report), IMAGES / "report.png")


@contextmanager
def chromium_page() -> Iterator[Page]:
    """A page of a browser in light colors."""
    if (chromium := shutil.which("chromium")) is None:
        sys.exit("error: chromium is not installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        viewport = {"width": WIDTH, "height": 1000}
        page = browser.new_page(viewport=viewport, device_scale_factor=SCALE, color_scheme="light", reduced_motion="reduce")
        page.set_default_timeout(TIMEOUT_MS)
        expect.set_options(timeout=TIMEOUT_MS)
        yield page
        browser.close()


def show_prediction(page: Page, url: str) -> Image.Image:
    """The try-it page after an upload, down to the most similar training images."""
    dataset = scan(SAMPLE)
    image = next(sample for sample in dataset.samples if sample.path == UPLOAD)
    page.goto(url)
    page.set_input_files("#file", {"name": Path(UPLOAD).name, "mimeType": "image/png", "buffer": dataset.read(image)})
    expect(page.locator("#neighbors li")).to_have_count(5)
    expect(page.locator("#heat-controls")).to_be_visible()
    expect(page.locator("#overlay")).to_be_visible()
    return screenshot(page, 0, end(page, "#similar") + 14)


def show_report(page: Page, report: Path) -> Image.Image:
    """The head of the report, the confusion matrix, and the first row of the most confident errors."""
    page.goto(report.resolve().as_uri())
    page.evaluate(LOAD_IMAGES)
    parts = [
        screenshot(page, 0, end(page, "header") - 2),
        screenshot(page, start(page, "#confusion"), end(page, "#confusion") - 20),
        screenshot(page, start(page, "#mistakes"), end(page, "#mistakes figure") + 6),
    ]
    picture = stack(parts)
    margin = round(MARGIN * SCALE)
    return picture.crop((margin, 0, picture.width - margin, picture.height))


def start(page: Page, selector: str) -> float:
    """Where the first such element starts, in CSS pixels from the top."""
    return float(page.locator(selector).first.bounding_box()["y"])


def end(page: Page, selector: str) -> float:
    """Where the first such element ends."""
    return start(page, selector) + float(page.locator(selector).first.bounding_box()["height"])


def screenshot(page: Page, top: float, bottom: float) -> Image.Image:
    """A strip of the page, as wide as the page."""
    clip = {"x": 0, "y": top, "width": WIDTH, "height": bottom - top}
    return Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip))).convert("RGB")


def stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Pictures of the same width, one below the other."""
    picture = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)))
    top = 0
    for part in parts:
        picture.paste(part, (0, top))
        top += part.height
    return picture


def save(picture: Image.Image, path: Path) -> None:
    """Writes a PNG, without the alpha channel and with the best compression."""
    picture.save(path, optimize=True)
    n_bytes = path.stat().st_size
    print(f"{path.relative_to(IMAGES.parents[1])}: {picture.width} x {picture.height} pixels, {n_bytes:,} bytes")
    if n_bytes > MAX_BYTES:
        sys.exit(f"error: {path.name} has more than {MAX_BYTES:,} bytes; crop it or lower SCALE")


if __name__ == "__main__":
    main()
