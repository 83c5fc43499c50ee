"""Where everything that can be made again is cached."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where Graft keeps what it can make again: GRAFT_CACHE, or the user's cache folder."""
    if given := os.environ.get("GRAFT_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graft"
