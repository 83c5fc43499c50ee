"""Maps exceptions to exit codes and error messages."""

import errno

from graft.training.cli.base_parser import EXIT_USAGE

EXIT_CORRUPT, EXIT_DIVERGED, EXIT_OUT_OF_MEMORY, EXIT_DISK = 3, 4, 5, 6
EXIT_CODES = {
    "ArtifactError": EXIT_CORRUPT,
    "CorruptCheckpoint": EXIT_CORRUPT,
    "Diverged": EXIT_DIVERGED,
    "OutOfMemoryError": EXIT_OUT_OF_MEMORY,
    "MemoryError": EXIT_OUT_OF_MEMORY,
}


def exit_code(error: BaseException) -> int:
    """The exit code of an expected error; 0 for a bug, which needs a traceback."""
    # By class name, because importing the classes takes seconds.
    if code := EXIT_CODES.get(type(error).__name__):
        return code
    if isinstance(error, OSError) and error.errno is not None:
        return EXIT_DISK if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else EXIT_USAGE
    return EXIT_USAGE if isinstance(error, (ValueError, ModuleNotFoundError, RuntimeError)) else 0


def error_message(error: BaseException) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        lines = (f"--{str(e['loc'][0]).replace('_', '-')} {e['input']}: {e['msg']}." for e in error.errors())
        return "\n".join(lines)
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed. Training needs: pip install 'graft-vision[train]'"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    return str(error) or type(error).__name__
