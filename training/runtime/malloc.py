"""Keeps the memory that one training step frees for the next one. No torch.

By default glibc returns each block of over 32 MiB to the operating system as soon as it is freed, and the next step gets it
back page by page, each of them cleared first. On a CPU that takes as long as the training itself.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4

KEEP_ALL = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1}
# What glibc itself arrives at in a process that frees large blocks; setting any parameter ends its own adjustment.
DEFAULTS = {_M_MMAP_THRESHOLD: 2**25, _M_TRIM_THRESHOLD: 2**26, _M_MMAP_MAX: 2**16}


@contextmanager
def kept_memory() -> Iterator[None]:
    """Freed memory stays in this process until the end of the block, which returns it.

    It does nothing without glibc, and in another than the main thread little: there glibc has no room for large blocks.
    """
    _set(KEEP_ALL)
    try:
        yield
    finally:
        _set(DEFAULTS)
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)


def _set(parameters: dict[int, int]) -> None:
    with suppress(AttributeError, OSError):  # not glibc
        library = ctypes.CDLL(None)
        for parameter, value in parameters.items():
            library.mallopt(parameter, value)
