"""Maps exceptions to exit codes and to error messages in our own words."""

import dis
import errno
import re

from graft.training.cli.base_parser import EXIT_USAGE
from graft.training.runtime import os_errors

EXIT_CORRUPT, EXIT_DIVERGED, EXIT_OUT_OF_MEMORY, EXIT_DISK, EXIT_DEVICE = 3, 4, 5, 6, 7
EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h
EXIT_CLOSED_PIPE = 141  # as a shell reports a program that SIGPIPE has ended
# By class name, because importing the classes takes seconds.
EXIT_CODES = {
    "ArtifactError": EXIT_CORRUPT,
    "CorruptCheckpoint": EXIT_CORRUPT,
    "Diverged": EXIT_DIVERGED,
    "MemoryError": EXIT_OUT_OF_MEMORY,
}
PLAIN_ERRORS = (ValueError, RuntimeError, MemoryError, OSError, PermissionError)  # those that our code raises
# What libraries say -> the exit code, and what we say.
LIBRARY_ERRORS = (
    (
        r"CUDA.*out of memory|out of memory.*CUDA|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED",
        EXIT_OUT_OF_MEMORY,
        "The memory of the GPU is full. Try a smaller --batch-size or --input-size, another --backbone, or --device cpu.",
    ),
    (
        r"can't allocate memory|bad_alloc|[Uu]nable to allocate|[Oo]ut of memory|^MemoryError",
        EXIT_OUT_OF_MEMORY,
        "The memory of this machine is full. Try a smaller --batch-size or --input-size, or another --backbone.",
    ),
    (
        r"not compiled with CUDA|No CUDA GPUs|NVIDIA driver|no kernel image is available",
        EXIT_USAGE,
        "The GPU cannot be used with the installed torch. Use --device cpu; `graft info` shows the GPU and the libraries.",
    ),
    (
        r"DeviceFailed|AcceleratorError|CUDA error|cuDNN error|CUDNN_STATUS|CUBLAS_STATUS",
        EXIT_DEVICE,
        "The GPU has failed. Try again, or use --device cpu; `graft info` checks the GPU.",
    ),
)


def exit_code(error: BaseException) -> int:
    """The exit code of an error; EXIT_BUG if nobody expected it."""
    if is_ours(error):
        return EXIT_CODES.get(type(error).__name__) or _system_code(error) or EXIT_USAGE
    if known := _library_error(error):
        return known[0]
    if isinstance(error, ImportError):
        return EXIT_USAGE
    return _system_code(error) or EXIT_BUG


def error_message(error: BaseException) -> str:
    """What to print after `error: `."""
    if (options := getattr(error, "options", None)) and type(error).__name__ == "OptionError":
        from graft.training.config.recipe import option_flag

        lines = [
            option.to_text() if option.file else f"{option_flag(option.name)} {option.value}: {option.reason}."
            for option in options
        ]
        return "\n".join(lines)
    if isinstance(error, OSError) and error.strerror:
        return f"{f'{error.filename}: ' if error.filename else ''}{os_errors.describe(error)}."
    if is_ours(error):
        return str(error) or type(error).__name__
    if known := _library_error(error):
        return known[1]
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed. Training needs: pip install 'graft-vision[train]'"
    if isinstance(error, ImportError):
        return f"{error.name or 'A library'} is installed but cannot be loaded ({error}). Install it again."
    return (
        "This is a bug in Graft, or in a library that it uses. Please report the lines above with the output of `graft info`."
    )


def is_ours(error: BaseException) -> bool:
    """Whether this project has raised the error, with a message for users. Libraries raise ValueError and RuntimeError too."""
    if type(error).__name__ == "DeviceFailed":  # its message is torch's
        return False
    if type(error).__module__.startswith("graft."):
        return True
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    if (
        trace is None
        or type(error) not in PLAIN_ERRORS
        or not str(trace.tb_frame.f_globals.get("__name__")).startswith("graft.")
    ):
        return False
    # A `raise` of ours, not a function written in C such as int(), whose errors appear in the frame of its caller.
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _system_code(error: BaseException) -> int:
    """The exit code of an error of the operating system; 0 for any other."""
    if not isinstance(error, OSError) or error.errno is None:
        return 0
    return EXIT_DISK if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else EXIT_USAGE


def _library_error(error: BaseException) -> tuple[int, str] | None:
    """The exit code and our message for a well-known error of a library."""
    if isinstance(error, MemoryError):
        return LIBRARY_ERRORS[1][1:]
    text = f"{type(error).__name__}: {error}"
    return next(((code, words) for pattern, code, words in LIBRARY_ERRORS if re.search(pattern, text, re.DOTALL)), None)
