"""What can go wrong while data are listed: DatasetError for what leaves nothing to understand, Mishaps for all the rest."""

from collections.abc import Sequence

from graft.training.data.findings import Finding, Severity

MAX_FILE_BYTES = 256 * 2**20
SHOWN = 10
SKIP = "--skip-bad"

# What cannot be used although a person may have meant it to be is an error; `SKIP` leaves it out. The rest is for the record.
KINDS: dict[str, tuple[Severity, str, str]] = {
    "unreadable": ("error", SKIP, "files that may not be read: mend their permissions"),
    "unreadable-folder": ("error", "", "folders that may not be read: mend their permissions"),
    "broken-link": ("error", SKIP, "links that lead nowhere"),
    "too-large": ("error", SKIP, f"files of more than {MAX_FILE_BYTES:,} bytes, which no image has"),
    "bad-name": ("error", SKIP, "names that are no Unicode text: rename them"),
    "outside": ("error", SKIP, "paths that lead out of the data"),
    "locked": ("error", SKIP, "encrypted members of the archive: unpack it with its password"),
    "packing": ("error", SKIP, "members packed in a way that is not read here: unpack the archive, or pack it anew"),
    "twice-packed": ("warning", "", "members that the archive holds twice; the last one counts"),
    "archive-link": ("warning", "", "links inside the archive, not followed"),
    "link-loop": ("warning", "", "links that lead back into the data, not followed: their images are counted where they lie"),
    "link-out": ("warning", "", "links that lead out of the data, not followed; --follow-links follows them"),
    "ignored": ("note", "", "files that are no images, ignored"),
    "damaged": ("error", SKIP, "files that cannot be read"),
    "empty-folder": ("error", "", "folders without an image where labels are expected: fill them, or move them away"),
    "unlabelled": ("error", "", "images that lie in no label's folder"),
    "stray-folder": ("error", "", "folders beside the parts to learn from and held out: move them away"),
    "missing": ("error", SKIP, "rows whose file does not exist"),
    "no-label": ("error", SKIP, "rows without a label"),
    "duplicate-row": ("error", "", "files that are listed more than once: keep one row each"),
    "conflicting-rows": ("error", "", "files listed under different labels: keep one row each, several labels joined by |"),
    "bad-split": ("error", "", "rows whose split is not train, validation or test"),
    "bad-row": ("error", "", "rows with more or fewer cells than the header: put names that hold a separator in quotes"),
    "no-split": ("error", "", "rows without a split, though others have one"),
}


class DatasetError(ValueError):
    """The data cannot be used. The text says what was found, and what would be right."""


class Mishaps:
    """What a listing passed over, by kind.

    Attributes:
        barren: folders that seem to hold neither images nor folders; whether that is wrong depends on the layout.
    """

    def __init__(self) -> None:
        self.barren: list[str] = []
        self._paths: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, kind: str, path: str) -> None:
        """Notes one path. Where no flag can leave files out, only the first ones are kept: there may be a million."""
        paths = self._paths.setdefault(kind, [])
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if KINDS[kind][1] or len(paths) < SHOWN:
            paths.append(path.encode("utf-8", "backslashreplace").decode())

    def forget(self, kind: str) -> None:
        """As if nothing of a kind had been noted."""
        self._paths.pop(kind, None)
        self._counts.pop(kind, None)

    def count(self, kind: str) -> int:
        """How many of a kind."""
        return self._counts.get(kind, 0)

    def findings(self) -> list[Finding]:
        """All of it, errors first."""
        order = ("error", "warning", "note")
        return sorted(map(self._finding, self._paths), key=lambda finding: order.index(finding.severity))

    def _finding(self, kind: str) -> Finding:
        severity, flag, what = KINDS[kind]
        paths = tuple(self._paths[kind])
        text = f"{what} ({self._counts[kind]:,}): {examples(paths, self._counts[kind])}"
        return Finding(kind, severity, text, paths, paths if flag else (), flag)


def examples(paths: Sequence[str], count: int | None = None) -> str:
    """The first ten, on one line, and how many more there are."""
    count = len(paths) if count is None else count
    more = f" and {count - SHOWN:,} more" if count > SHOWN else ""
    return ", ".join(map(plain, paths[:SHOWN])) + more


def plain(text: str) -> str:
    """A name as it may be printed on one line: exactly as spelled unless it holds what no line can hold."""
    return text if text.isprintable() else ascii(text)


def also(mishaps: Mishaps) -> str:
    """What else was found, as further lines of a DatasetError."""
    return "".join(f"\n{finding.severity}: {finding.text}" for finding in mishaps.findings())
