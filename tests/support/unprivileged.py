"""Runs code as an unprivileged user, for tests that run as root, which ignores file permissions."""

import os
from collections.abc import Callable
from pathlib import Path


def run_unprivileged(reachable: Path, work: Callable[[], object]) -> str:
    """Run `work` as user 65534; return its error as `Type: text`, or ""."""
    for folder in (reachable, *reachable.parents):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if not os.geteuid():
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            work()
        except Exception as error:  # noqa: BLE001 - any error is reported
            os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        return pipe.read()
