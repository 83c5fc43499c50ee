"""Reads a file of keys: one on each line. Lines that are empty, or that begin with #, are skipped."""

from pathlib import Path

MIN_KEY_LENGTH = 16  # characters; a shorter key can be guessed
MAX_FILE_BYTES = 2**16


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file.

    Raises:
        ValueError: if the file cannot be read, has no key, or has one that is too short; the message shows no key.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        lines = [line.strip() for line in content.decode().splitlines()]
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} cannot be read: it is not UTF-8 text") from None
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{path} is no file of keys: it has more than {MAX_FILE_BYTES:,} bytes")
    keys = {number: line for number, line in enumerate(lines, 1) if line and not line.startswith("#")}
    if not keys:
        raise ValueError(f"{path} has no key; create one with: openssl rand -hex 32 > {path}")
    for number, key in keys.items():
        check_key(key, f"the key in line {number} of {path}")
    return tuple(keys.values())


def check_key(key: str, name: str) -> None:
    """Raises ValueError if a key is too short."""
    if len(key) < MIN_KEY_LENGTH:
        raise ValueError(f"{name} must have at least {MIN_KEY_LENGTH} characters; create one with: openssl rand -hex 32")
