"""Errors while listing a data set: `DatasetError` stops the run, `ScanIssues` collects everything else. Reads no files."""

from collections.abc import Sequence

from graft.training.data.findings import Finding, Severity

MAX_FILE_BYTES = 256 * 2**20
MAX_EXAMPLES = 10
SKIP_BAD = "--skip-bad"

# Kind -> (severity, flag that skips the files, text). A file that cannot be used, but was probably meant to be, is an error.
ISSUE_KINDS: dict[str, tuple[Severity, str, str]] = {
    "unreadable": ("error", SKIP_BAD, "files without read permission: fix their permissions"),
    "unreadable-folder": ("error", "", "folders without read permission: fix their permissions"),
    "broken-link": ("error", SKIP_BAD, "broken symbolic links"),
    "too-large": ("error", SKIP_BAD, f"files larger than {MAX_FILE_BYTES:,} bytes, the limit for one image"),
    "bad-name": ("error", SKIP_BAD, "names that are not valid Unicode: rename them"),
    "outside": ("error", SKIP_BAD, "paths outside the data set"),
    "locked": ("error", SKIP_BAD, "encrypted archive members: extract the archive with its password"),
    "packing": (
        "error",
        SKIP_BAD,
        "archive members stored in an unsupported way: extract the archive or compress it again",
    ),
    "archive": ("warning", "", "archives and compressed files, not opened: extract them first"),
    "twice-packed": ("warning", "", "archive members with a duplicate name; the last one is used"),
    "archive-link": ("warning", "", "symbolic links in the archive, not followed"),
    "link-loop": ("warning", "", "links back into the data set, not followed: their images are counted at their own paths"),
    "link-out": ("warning", "", "links out of the data set, not followed: use --follow-links to follow them"),
    "ignored": ("note", "", "files that are not images, ignored"),
    "damaged": ("error", SKIP_BAD, "files that cannot be read"),
    "empty-folder": ("error", "", "label folders without images: add images or remove the folders"),
    "folder-without-images": ("warning", "", "folders with other files but no images, not read as labels"),
    "unlabeled": ("error", "", "images outside a label folder"),
    "no-label-in-name": ("error", SKIP_BAD, "images whose path does not match --label-regex"),
    "stray-folder": ("error", "", "folders next to the splits that are neither a split nor labels: move them elsewhere"),
    "unlabeled-split": ("note", "", "splits without labels, not used"),
    "copied-folder": ("note", "", "folders that repeat the folders next to them, not used"),
    "ambiguous-layout": ("warning", "", "labels may be other folders"),
    "guessed-encoding": ("warning", "", "tables that are not UTF-8: the code page is a guess, save as UTF-8 if it is wrong"),
    "unused-table": ("note", "", "tables without images and labels, not used"),
    "missing": ("error", SKIP_BAD, "rows with a missing file"),
    "ambiguous-file": ("error", SKIP_BAD, "rows whose file exists in several folders: add the folder to the path"),
    "bad-label": ("error", SKIP_BAD, "rows with a label that cannot be read"),
    "no-label": ("error", SKIP_BAD, "rows without a label"),
    "duplicate-row": ("error", "", "files listed more than once: keep one row per file"),
    "conflicting-rows": (
        "error",
        "",
        "files listed with different labels or splits: keep one row per file, several labels joined by |",
    ),
    "bad-split": ("error", "", "rows with a split other than train, validation or test"),
    "bad-row": ("error", "", "rows with more or fewer cells than the header: quote values that contain the separator"),
    "no-split": ("error", "", "rows without a split, although other rows have one"),
}


class DatasetError(ValueError):
    """The data set cannot be used. The message says what was found and what was expected."""


class ScanIssues:
    """Issues found while listing a data set, grouped by kind.

    Attributes:
        empty_folders: folders without images or subfolders; whether they are an error depends on the layout.
    """

    def __init__(self) -> None:
        self.empty_folders: list[str] = []
        self._paths: dict[str, list[str]] = {}
        self._examples: dict[str, list[str]] = {}  # the first paths, as shown in messages
        self._counts: dict[str, int] = {}
        self._findings: list[Finding] = []

    def report(self, finding: Finding) -> None:
        """Record a finding with a text of its own."""
        self._findings.append(finding)

    def add(self, kind: str, path: str, where: str = "") -> None:
        """Record one path. Kinds that no flag can skip keep only the first paths: there may be a million.

        Args:
            where: what a message says after the path, such as " (line 3)".
        """
        paths, texts = self._paths.setdefault(kind, []), self._examples.setdefault(kind, [])
        self._counts[kind] = self._counts.get(kind, 0) + 1
        path = path.encode("utf-8", "backslashreplace").decode()
        if ISSUE_KINDS[kind][1] or len(paths) < MAX_EXAMPLES:
            paths.append(path)
        if len(texts) < MAX_EXAMPLES:
            texts.append(path + where)

    def discard(self, kind: str) -> None:
        """Remove all issues of one kind."""
        self._paths.pop(kind, None)
        self._examples.pop(kind, None)
        self._counts.pop(kind, None)

    def update(self, other: "ScanIssues") -> None:
        """Add the issues of another."""
        for kind, paths in other._paths.items():
            self._paths.setdefault(kind, []).extend(paths)
            self._examples.setdefault(kind, []).extend(other._examples[kind])
            self._counts[kind] = self._counts.get(kind, 0) + other._counts[kind]
        self._findings += other._findings

    def count(self, kind: str) -> int:
        """Return the number of issues of one kind."""
        return self._counts.get(kind, 0)

    def findings(self) -> list[Finding]:
        """Return all issues as findings, errors first."""
        order = ("error", "warning", "note")
        findings = [*map(self._to_finding, self._paths), *self._findings]
        return sorted(findings, key=lambda finding: order.index(finding.severity))

    def _to_finding(self, kind: str) -> Finding:
        severity, flag, description = ISSUE_KINDS[kind]
        paths = tuple(self._paths[kind])
        text = f"{description} ({self._counts[kind]:,}): {examples(self._examples[kind], self._counts[kind])}"
        return Finding(kind, severity, text, paths, paths if flag else (), flag)


def examples(paths: Sequence[str], count: int | None = None) -> str:
    """Format the first ten paths on one line, with the number of the rest."""
    count = len(paths) if count is None else count
    more = f" and {count - MAX_EXAMPLES:,} more" if count > MAX_EXAMPLES else ""
    return ", ".join(map(printable, paths[:MAX_EXAMPLES])) + more


def printable(name: str) -> str:
    """Return a name that is safe to print on one line: unchanged, or escaped if it has unprintable characters."""
    return name if name.isprintable() else ascii(name)


def details(issues: ScanIssues) -> str:
    """Format all issues as extra lines of a DatasetError."""
    return "".join(f"\n{finding.severity}: {finding.text}" for finding in issues.findings())
