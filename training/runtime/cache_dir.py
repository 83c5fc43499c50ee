"""The folder of all caches."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return GRAFT_CACHE, or `graft` in the user's cache folder. All its contents can be recreated."""
    if folder := os.environ.get("GRAFT_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graft"
