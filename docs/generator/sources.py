"""A copy of the Python sources in which graft/service and graft/training are folders: griffe does not follow links."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "build" / "docs-sources"  # also in mkdocs.yml


def update(target: Path = TARGET) -> None:
    """Makes the copy equal to the sources. Writes only what differs, so that two builds at a time do not disturb each other."""
    sources = {path: _copied(path) for path in _modules()}
    wanted = {target / relative for relative in sources.values()}
    for path in target.rglob("*.py"):
        if path not in wanted:
            path.unlink()
    for source, relative in sources.items():
        copy, content = target / relative, source.read_bytes()
        if not copy.exists() or copy.read_bytes() != content:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)


def _modules() -> list[Path]:
    return [*(ROOT / "graft").glob("*.py"), *(ROOT / "service").rglob("*.py"), *(ROOT / "training").rglob("*.py")]


def _copied(source: Path) -> Path:
    relative = source.relative_to(ROOT)
    return relative if relative.parts[0] == "graft" else Path("graft") / relative
