"""The documentation: its links, its generated parts, and the built site, which must work without a network."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from doc_blocks import PAGES, ROOT, URL, anchors, graft_arguments, links, parse, prose, read
from generator import commands, http_api, sections

import graft
from graft.service.api.schemas import PROBLEMS
from graft.service.http.openapi import build_routes
from graft.service.imaging.formats import FORMATS
from graft.service.settings import Settings
from graft.training.cli import exit_codes
from graft.training.config.recipe import Recipe

# Reviewed: what the pages may link to. Everything else is in the repository.
HOSTS = {
    "keepachangelog.com",
    "semver.org",
}
TIMEOUT_MS = 60_000
# The page ignores what is typed before its script has started.
TYPE_UNTIL_FOUND = """text => {
  if (document.querySelector(".md-search-result__item")) return true;
  const field = document.querySelector(".md-search__input");
  field.focus();
  field.value = text;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.dispatchEvent(new KeyboardEvent("keyup", { bubbles: true }));
  return false;
}"""
LOCAL_URL = re.compile(r"http://(127\.0\.0\.1|localhost)(:\d+|:PORT)?(/|$)")


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_to_files_and_anchors(page):
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target.resolve().relative_to(ROOT).as_posix()), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_absolute_links_use_https_and_known_hosts(page):
    for url in URL.findall(prose(page)):
        if not LOCAL_URL.match(url):
            scheme, _, rest = url.partition("://")
            assert (scheme, rest.split("/")[0]) in {("https", host) for host in HOSTS}, f"{page}: {url}"


def test_architecture_names_existing_modules():
    paths = re.findall(r"`((?:service|training|graft|docs|tests)/[\w/.]*)`", read("docs/architecture.md"))
    assert len(paths) > 40
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_generated_section_is_used_once():
    text = "\n".join(read(page) for page in PAGES)
    assert {name: len(re.findall(rf"^<!-- {name} -->$", text, re.MULTILINE)) for name in sections.SECTIONS} == dict.fromkeys(
        sections.SECTIONS, 1
    )


def test_diagram_matches_the_import_graph():
    command = [sys.executable, ROOT / "docs" / "generator" / "diagram.py", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site. A warning of MkDocs, such as a broken link or anchor, fails the build."""
    folder = tmp_path_factory.mktemp("site") / "docs"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def text(site: Path, page: str) -> str:
    """A page of the site without tags."""
    return unescape(re.sub(r"<[^>]+>", "", (site / page).read_text(encoding="utf-8")))


def ids(site: Path, page: str) -> set[str]:
    return set(re.findall(r'\bid="([^"]+)"', (site / page).read_text(encoding="utf-8")))


def test_command_line_page_has_every_command_and_flag(site):
    found = ids(site, "reference/cli.html")
    for name, parser in commands.parsers().items():
        assert f"graft-{name}" in found
        own = [action for action in parser._actions if action not in commands.common(parser)]
        assert {commands.option_anchor(name, action) for action in own} <= found
        assert {commands.option_anchor("graft", action) for action in commands.common(parser)} <= found


def test_command_line_page_has_every_exit_code(site):
    codes = {str(value) for name, value in vars(exit_codes).items() if name.startswith("EXIT_") and isinstance(value, int)}
    assert codes | {"0", "1", "130", "143"} == set(commands.EXIT_MEANINGS)
    assert all(meaning.replace("`", "") in text(site, "reference/cli.html") for meaning in commands.EXIT_MEANINGS.values())


def test_examples_of_help_texts_are_accepted_by_the_parser():
    for parser in commands.parsers().values():
        for line in commands.example_lines(parser):
            for arguments in graft_arguments(line):
                parse(arguments)


def test_http_page_has_every_route_model_and_error_code(site):
    found = ids(site, "reference/http-api.html")
    routes = [route for route in build_routes().values() if route.tag]
    assert {http_api.route_anchor(route.method, route.path) for route in routes} <= found
    assert {route.response_model.__name__.lower() for route in routes if route.response_model} <= found
    assert [code for code in PROBLEMS if code not in text(site, "reference/http-api.html")] == []


def test_operating_page_has_every_setting(site):
    page = text(site, "operating.html")
    assert [name for name in Settings.model_fields if f"GRAFT_{name.upper()}" not in page] == []


def test_training_page_has_every_recipe_option_and_formats_are_listed(site):
    page = (site / "training.html").read_text(encoding="utf-8")
    assert [name for name in Recipe.model_fields if f"<code>{name}</code>" not in page] == []
    assert [fmt.label for fmt in FORMATS if fmt.suffixes[0] not in text(site, "data-formats.html")] == []


def test_python_page_has_every_public_name(site):
    found = ids(site, "reference/python-api.html")
    assert [name for name in graft.__all__ if not any(anchor.rpartition(".")[2] == name for anchor in found)] == []


class _Sources(HTMLParser):
    """Collects what a browser would load for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag == "link" and attributes.get("rel") not in ("canonical", "next", "prev"):
            self.found.append(attributes.get("href", ""))
        if tag != "a":
            self.found += [attributes[name] for name in ("src", "srcset", "poster", "data", "action") if name in attributes]


def loaded_from_elsewhere(site: Path) -> Iterator[str]:
    for path in sorted(site.rglob("*.html")):
        sources = _Sources()
        sources.feed(path.read_text(encoding="utf-8"))
        yield from (f"{path.name}: {url}" for url in sources.found if re.match(r"(https?:)?//", url))
    for path in sorted(site.rglob("*.css")):
        styles = path.read_text(encoding="utf-8")
        yield from (f"{path.name}: {url}" for url in re.findall(r"(?:url\(|@import )['\"]?((?:https?:)?//[^'\")]+)", styles))


def test_site_loads_nothing_from_another_origin(site):
    assert list(loaded_from_elsewhere(site)) == []


def test_site_contains_no_sources_of_the_generator(site):
    assert [path.name for path in site.rglob("*") if path.suffix in (".py", ".pyc", ".md")] == []


def test_search_works_from_the_file_system_and_requests_only_files(site):
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    requested: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: requested.append(request.url))
        page.goto(f"file://{site}/index.html")
        page.wait_for_function(TYPE_UNTIL_FOUND, arg="outlier_score", polling=500, timeout=TIMEOUT_MS)
        browser.close()
    assert [url for url in requested if not url.startswith(("file://", "data:", "about:"))] == []
