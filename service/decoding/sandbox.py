"""What a decode worker may do once it is confined: compute, and answer on the socket and in the memory that it was given.

Every limit is set if the system allows it, and left out if not: a container may forbid some, and systems other than Linux have
none of the last three. `confine` returns those that hold.
"""

import ctypes
import errno
import math
import os
import platform
import resource
import signal
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

MAX_OPEN_FILES = 16
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000

# By machine: its AUDIT_ARCH constant, and the numbers of the system calls that decoding never needs: to reach the network,
# to start programs, to touch other processes, and to change files. From the kernel's asm/unistd.h.
_DENIED = {
    "x86_64": (
        0xC000003E,
        {
            "socket, connect, bind, listen, accept, accept4": (41, 42, 49, 50, 43, 288),
            "execve, execveat, fork, vfork": (59, 322, 57, 58),
            "kill, tkill, ptrace, process_vm_readv, process_vm_writev": (62, 200, 101, 310, 311),
            "pidfd_open, pidfd_getfd, pidfd_send_signal": (434, 438, 424),
            "truncate, rename, renameat, renameat2, mkdir, mkdirat": (76, 82, 264, 316, 83, 258),
            "rmdir, creat, link, linkat, unlink, unlinkat, symlink, symlinkat": (84, 85, 86, 265, 87, 263, 88, 266),
            "chmod, fchmod, fchmodat, chown, fchown, lchown, fchownat": (90, 91, 268, 92, 93, 94, 260),
            "mknod, mknodat, mount, chroot": (133, 259, 165, 161),
            "init_module, finit_module, kexec_load, perf_event_open": (175, 313, 246, 298),
            "open_by_handle_at, bpf, userfaultfd, io_uring_setup": (304, 321, 323, 425),
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "socket, connect, bind, listen, accept, accept4": (198, 203, 200, 201, 202, 242),
            "execve, execveat": (221, 281),
            "kill, tkill, ptrace, process_vm_readv, process_vm_writev": (129, 130, 117, 270, 271),
            "pidfd_open, pidfd_getfd, pidfd_send_signal": (434, 438, 424),
            "truncate, renameat, renameat2, mkdirat, linkat, unlinkat, symlinkat": (45, 38, 276, 34, 37, 35, 36),
            "fchmod, fchmodat, fchown, fchownat, mknodat, mount, chroot": (52, 53, 55, 54, 33, 40, 51),
            "init_module, finit_module, kexec_load, perf_event_open": (105, 273, 104, 241),
            "open_by_handle_at, bpf, userfaultfd, io_uring_setup": (265, 280, 282, 425),
        },
    ),
}
_X32_BIT = 0x40000000  # marks the numbers of a second system call table of x86_64, which would get around the filter


def confine(max_bytes: int) -> list[str]:
    """Confines this process for good. Returns the names of the restrictions that hold, in order: network, system calls.

    Args:
        max_bytes: memory that it may take on top of its own size.
    """
    with suppress(AttributeError):  # Linux only: die with the parent process
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(OSError):  # the OOM killer should kill a worker, not the server
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with suppress(OSError):
        n_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        _set_limit(resource.RLIMIT_AS, n_pages * resource.getpagesize() + max_bytes)
    _set_limit(resource.RLIMIT_CORE, 0)
    _set_limit(resource.RLIMIT_FSIZE, 0)
    _set_limit(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    restrictions: dict[str, Callable[[], None]] = {"network": _leave_network, "system calls": _filter_system_calls}
    return [name for name, restrict in restrictions.items() if _holds(restrict)]


def raise_cpu_limit(seconds: float) -> None:
    """Allows more CPU time, by `seconds`. A backup for the case that the server is too busy to kill this process."""
    _set_limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds) + 1)


def _set_limit(resource_id: int, value: int) -> None:
    _, hard = resource.getrlimit(resource_id)
    resource.setrlimit(resource_id, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _holds(restrict: Callable[[], None]) -> bool:
    try:
        restrict()
    except (OSError, AttributeError, KeyError):
        return False
    return True


def _leave_network() -> None:
    """Moves this process into a network without any interface. Without privileges, that takes a user namespace too."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) and libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")


def _filter_system_calls() -> None:
    """Makes the kernel refuse the denied system calls (seccomp), with EPERM."""
    audit_arch, groups = _DENIED[platform.machine()]
    numbers = [number for group in groups.values() for number in group]
    program = b"".join(_instructions(audit_arch, numbers))
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    word = ctypes.c_ulong  # the kernel checks all 64 bits
    if prctl(_PR_SET_NO_NEW_PRIVS, word(1), word(0), word(0), word(0)) or prctl(
        _PR_SET_SECCOMP, word(_SECCOMP_MODE_FILTER), ctypes.c_char_p(header), word(0), word(0)
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _instructions(audit_arch: int, denied: list[int]) -> list[bytes]:
    """The filter in classic BPF; its input is the kernel's struct seccomp_data: number, then architecture."""
    load, jump_equal, jump_at_least, answer = 0x20, 0x15, 0x35, 0x06
    kill, refuse, allow = 0x80000000, 0x00050000 | errno.EPERM, 0x7FFF0000

    def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, value)

    n = len(denied)
    return [
        instruction(load, 4),
        instruction(jump_equal, audit_arch, if_true=1),
        instruction(answer, kill),
        instruction(load, 0),
        instruction(jump_at_least, _X32_BIT, if_true=n + 1),
        *(instruction(jump_equal, number, if_true=n - index) for index, number in enumerate(denied)),
        instruction(answer, allow),
        instruction(answer, refuse),
    ]
