import ctypes
import os
from pathlib import Path

import numpy as np
import pytest

from graft.training.runtime.malloc import kept_memory

SIZE = 2**27  # bytes, of a block that glibc returns at once by default
STATM = Path("/proc/self/statm")

pytestmark = pytest.mark.skipif(
    not STATM.exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc on Linux is tuned"
)


def resident_bytes() -> int:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def bytes_kept_of_a_block() -> int:
    before = resident_bytes()
    block = np.ones(SIZE, np.uint8)
    assert resident_bytes() >= before + 0.9 * SIZE
    del block
    return resident_bytes() - before


def test_a_freed_block_stays_in_the_process():
    with kept_memory():
        kept = bytes_kept_of_a_block()
    assert kept > 0.9 * SIZE


def test_memory_is_returned_at_the_end():
    before = resident_bytes()
    with kept_memory():
        bytes_kept_of_a_block()
    assert resident_bytes() < before + 0.1 * SIZE
    assert bytes_kept_of_a_block() < 0.1 * SIZE


def test_memory_is_returned_after_an_error():
    before = resident_bytes()
    with pytest.raises(ZeroDivisionError), kept_memory():
        _ = bytes_kept_of_a_block() / 0
    assert resident_bytes() < before + 0.1 * SIZE
