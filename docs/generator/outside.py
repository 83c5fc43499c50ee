"""Links that lead out of docs/. They work in the repository; on the site each leads to a page of its own, or becomes text."""

import posixpath
import re
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Files outside docs/ that become pages of the site. README.md is the front page of the repository, as index.md is of the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security-policy.md",
    "benchmarks/README.md": "project/running-benchmarks.md",
    "benchmarks/RESULTS.md": "project/benchmark-results.md",
    "deploy/README.md": "project/deploy.md",
    "examples/README.md": "project/examples.md",
}
SOURCES = {target: source for source, target in PAGES.items() if source != "README.md"}
PICTURE_SUFFIXES = (".png", ".jpg", ".svg", ".webp")
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]+)\)")
FENCE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:|#|/")


def redirect(markdown: str, page: str) -> str:
    """The page with its relative links as they have to be on the site.

    Args:
        page: the name of the page on the site, such as `reference/cli.md`.
    """
    return _outside_fences(markdown, lambda text: LINK.sub(lambda match: _redirected(match, page), text))


def pictures(paths: Iterable[str]) -> set[str]:
    """The pictures outside docs/ that pages show, relative to the repository."""
    found = set()
    for path in map(Path, paths):
        source = path.relative_to(ROOT).as_posix()
        for match in LINK.finditer(FENCE.sub("", path.read_text(encoding="utf-8"))):
            target = _resolve(source, match["target"])
            if target and not target.startswith("docs/") and target.endswith(PICTURE_SUFFIXES):
                found.add(target)
    return found


def picture_uri(path: str) -> str:
    return f"images/from-repository/{path}"


def _resolve(source: str, target: str) -> str | None:
    """The file that a relative link in a file of the repository leads to; None for other links."""
    if SCHEME.match(target):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target.partition("#")[0]))


def _redirected(match: re.Match[str], page: str) -> str:
    path = _resolve(SOURCES.get(page, f"docs/{page}"), match["target"])
    if path is None:
        return match[0]
    if (uri := _site_uri(path)) is None:
        return match["text"] if path.rstrip("/") in match["text"] else f"{match['text']} (`{path}`)"
    anchor = match["target"].partition("#")[1:]
    return f"{match['image']}[{match['text']}]({posixpath.relpath(uri, posixpath.dirname(page) or '.')}{''.join(anchor)})"


def _site_uri(path: str) -> str | None:
    """The name on the site of a file of the repository; None if it is not on the site."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.endswith(PICTURE_SUFFIXES):
        return picture_uri(path)
    return PAGES.get(path)


def _outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])
