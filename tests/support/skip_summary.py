"""Counts the skipped tests of a session by what they need, in one line."""

import re
from collections import Counter
from collections.abc import Iterable

# Patterns of reasons, first match first, and what such tests need.
NEEDS = (
    (r"\.\./shared", "../shared/data"),
    (r"graft-vision\[\w+\]", r"\g<0>"),
    (r"CUDA", "a GPU"),
    (r"bf16|int8|processor|CPU", "another processor"),
    (r"[Cc]hromium|browser", "chromium"),
    (r"\bnode\b", "node"),
    (r"\bnpm\b", "npm"),
    (r"Java", "Java"),
    (r"\broot\b|unshare|permitted|allow the filter", "more privileges"),
    (r"other systems|Linux only|only Linux|only on Linux|system has no", "another system"),
    (r"could not import '([\w.]+)'", r"\1"),
    (r"([\w./-]+) is not installed", r"\1"),
    (r"needs ([^;,]+)", r"\1"),
    (r"([\w./-]+) is installed", r"\1 to be absent"),
)


def needed(reason: str) -> str:
    """What a test needs, from the reason of its skip; the reason itself if it is of no known kind."""
    for pattern, need in NEEDS:
        if match := re.search(pattern, reason):
            return match.expand(need)
    return reason.removeprefix("Skipped: ")


def skip_summary(reasons: Iterable[str]) -> str:
    """`skipped 14: 9 need a GPU, 3 need ../shared/data, 2 need node`; "" without a skip."""
    counts = Counter(map(needed, reasons))
    parts = [f"{n} need{'s' * (n == 1)} {need}" for need, n in counts.most_common()]
    return f"skipped {counts.total()}: {', '.join(parts)}" if parts else ""
