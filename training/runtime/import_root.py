"""Where child processes find Graft."""

from pathlib import Path

# The folder that contains the `graft` package. Not resolved: in a checkout, graft/training is a link.
IMPORT_ROOT = Path(__file__).parents[3]
