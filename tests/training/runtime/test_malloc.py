import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pytest

MIB = 128  # of a block, which glibc returns at once by default
# In a process of its own: memory is kept in the main thread, and pytest may run tests in another one.
PROGRAM = f"""
import json, os
from contextlib import suppress
import numpy as np
from graft.training.runtime.malloc import kept_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

def kept_of_a_block():
    before = resident()
    block = np.ones({MIB} * 2**20, np.uint8)
    assert resident() > before + 0.9 * {MIB}
    del block
    return resident() - before

found, start = {{"before": kept_of_a_block()}}, resident()
with kept_memory():
    found["inside"] = kept_of_a_block()
found["after"] = resident() - start
with suppress(RuntimeError), kept_memory():
    kept_of_a_block()
    raise RuntimeError
found["after an error"] = resident() - start
found["later"] = kept_of_a_block()
print(json.dumps(found))
"""


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="only glibc on Linux is tuned",
)
def test_freed_memory_stays_in_the_process_until_the_end_of_the_block():
    found = json.loads(subprocess.check_output([sys.executable, "-c", PROGRAM], text=True))
    kept = {moment for moment, mib in found.items() if mib > 0.5 * MIB}
    assert kept == {"inside"}, found
