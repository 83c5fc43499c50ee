"""Work done by somebody without rights, for tests that root runs: root may read and write everywhere."""

import os
from collections.abc import Callable
from pathlib import Path


def as_nobody(reachable: Path, work: Callable[[], object]) -> str:
    """The error that work ends with for somebody without rights, as `Type: text`; "" for none."""
    for above in (reachable, *reachable.parents):
        if above.stat().st_uid == os.geteuid():
            above.chmod(above.stat().st_mode | 0o055)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if not os.geteuid():
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        return pipe.read()
