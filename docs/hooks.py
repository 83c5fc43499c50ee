"""The MkDocs hook: fills in the generated sections, adds pages and pictures from outside docs/, inlines the diagram."""

import re
from html import escape
from pathlib import Path

from generator import outside, sections, sources
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ICON = "images/icon.svg"
DIAGRAM = re.compile(r'<p>\s*<img [^>]*src="[^"]*images/architecture\.svg"[^>]*>\s*</p>')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Makes the copy of the sources that mkdocstrings reads."""
    sources.update()
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the icon of the service's page, and the pages and pictures from outside docs/ that the pages link to."""
    files.append(File.generated(config, ICON, abs_src_path=str(ROOT / "service" / "page" / "icon.svg")))
    for source, target in outside.PAGES.items():
        if (ROOT / source).is_file() and target not in files.src_uris:
            files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    for picture in sorted(outside.pictures([file.abs_src_path for file in files.documentation_pages() if file.abs_src_path])):
        files.append(File.generated(config, outside.picture_uri(picture), abs_src_path=str(ROOT / picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in the generated sections and redirects the links that leave docs/."""
    return outside.redirect(sections.fill(markdown), page.file.src_uri)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Inlines the diagram, so that it follows the color scheme that the reader selected."""
    if not DIAGRAM.search(html):
        return html
    svg = (ROOT / "docs" / "images" / "architecture.svg").read_text(encoding="utf-8")
    figure = f'<div class="diagram" tabindex="0" role="region" aria-label="{escape("Diagram of the packages")}">{svg}</div>'
    return DIAGRAM.sub(lambda _: figure, html)
