"""Charts, galleries and thumbnails, as SVG or small images. No HTML pages."""
