"""Reads the arrays in a package's data files: whoever writes a package also writes its digests, so nothing else is certain.

Nothing is allocated before its size is known to be bounded, and nothing is unpickled or decompressed. What the values mean is
checked by `graft.service.package_contents`. The messages of `ContentError` continue a sentence that begins with the file.
"""

import json
import math
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .artifact import Artifact, ArtifactError

MAX_WEIGHTS_HEADER_BYTES = 2**22  # a thousand tensors need 100 KB

_MAX_NPY_HEADER_BYTES = 512
_END_RECORD = struct.Struct("<4s4H2LH")  # of a zip
_LOCATOR_BYTES = 20
_MAX_DIRECTORY_BYTES = 2_000
_ITEM_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2}
_ITEM_BYTES |= {"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8}

Array = NDArray[Any]


class ContentError(ValueError):
    """A file of a package has the right digest and the wrong content."""


@contextmanager
def checking(artifact: Artifact, name: str) -> Iterator[None]:
    """Turns a ContentError into an ArtifactError that names the file."""
    try:
        yield
    except ContentError as error:
        raise ArtifactError(f"{artifact.location(name)} {error}.") from None


class ArraySpec(NamedTuple):
    """What an array in an .npz file must be.

    Attributes:
        dtype: as numpy writes it, such as "<f4".
        n_dims: number of dimensions.
    """

    dtype: str
    n_dims: int


class Tensor(NamedTuple):
    """A tensor in the header of a safetensors file, with its place after the header, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_arrays(path: Path, specs: Mapping[str, ArraySpec]) -> dict[str, Array]:
    """Reads an .npz file as `numpy.savez` writes it: uncompressed, exactly these arrays, none of them pickled.

    Their size is at most the file's, so a file of a checked size needs no other limit.

    Raises:
        ContentError: if it is anything else.
    """
    try:
        with path.open("rb") as file:
            _check_end_record(file)
            with zipfile.ZipFile(file) as archive:
                _check_members(archive, [f"{name}.npy" for name in specs])
                return {name: _read_array(archive, name, spec) for name, spec in specs.items()}
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError, struct.error) as error:
        raise ContentError(f"is not an .npz file: {error}") from None


def split_content(content: Array, ends: Array) -> list[bytes]:
    """The files in `content`, uint8 (B,), of which the i-th ends at `ends[i]`, int64 (N,). Raises ContentError."""
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    if (ends < starts).any() or (ends[-1] if len(ends) else 0) != len(content):
        raise ContentError(f"has ends that do not divide its content of {len(content):,} bytes")
    whole = content.tobytes()
    return [whole[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def read_weights_header(file: IO[bytes], n_bytes: int) -> tuple[dict[str, Tensor], int]:
    """The tensors of a safetensors file, and where the first of them starts. They must fill the file without a gap."""
    n_header = int.from_bytes(file.read(8), "little")
    if n_bytes < 10 or not 2 <= n_header <= min(n_bytes - 8, MAX_WEIGHTS_HEADER_BYTES):
        raise ContentError("is not a safetensors file: the length of its header is wrong")
    try:
        fields = json.loads(file.read(n_header))
        tensors = {name: _parse_tensor(record) for name, record in fields.items() if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ContentError("is not a safetensors file: its header is not valid") from None
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        n_needed = math.prod(tensor.shape) * _ITEM_BYTES.get(tensor.dtype, 0)
        if tensor.start != position or tensor.end - tensor.start != n_needed:
            raise ContentError(f"has a header that does not describe its content: at {name[:100]!a}")
        position = tensor.end
    if position != n_bytes - 8 - n_header:
        raise ContentError(f"has {n_bytes - 8 - n_header:,} bytes of tensors; its header lists {position:,}")
    return tensors, 8 + n_header


def _check_end_record(file: IO[bytes]) -> None:
    """Checks the end of a zip: zipfile would read a directory of a million members into memory."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END_RECORD.size - _LOCATOR_BYTES))
    tail = file.read()
    if len(tail) < _END_RECORD.size + _LOCATOR_BYTES:
        raise ContentError("is not an .npz file: it is too short")
    signature, *_, n_directory_bytes, _, n_comment = _END_RECORD.unpack(tail[-_END_RECORD.size :])
    if signature != b"PK\5\6" or n_comment or tail.startswith(b"PK\6\7") or n_directory_bytes > _MAX_DIRECTORY_BYTES:
        raise ContentError("is not an .npz file as numpy writes it")


def _check_members(archive: zipfile.ZipFile, expected: list[str]) -> None:
    members = archive.infolist()
    if sorted(member.filename for member in members) != sorted(expected):
        raise ContentError(f"does not contain exactly {', '.join(expected)}")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise ContentError(f"has compressed arrays ({member.filename}); those of a package are not compressed")


def _read_array(archive: zipfile.ZipFile, name: str, spec: ArraySpec) -> Array:
    n_bytes = archive.getinfo(f"{name}.npy").file_size
    with archive.open(f"{name}.npy") as file:
        try:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ContentError(f"has an array that numpy would not write: {name}")
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=_MAX_NPY_HEADER_BYTES)
        except ContentError:
            raise
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise ContentError(f"has an array without a valid header: {name}") from None
        if dtype.str != spec.dtype or len(shape) != spec.n_dims or min(shape) < 0:
            raise ContentError(f"has {name} of type {dtype.str} and shape {shape}; expected: {spec.dtype}, {spec.n_dims}-d")
        n_needed = math.prod(shape) * dtype.itemsize
        if n_needed != n_bytes - file.tell():
            raise ContentError(f"has {name} of shape {shape}, which does not fit its {n_bytes - file.tell():,} bytes")
        return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if is_fortran else "C")


def _parse_tensor(record: Any) -> Tensor:
    start, end = record["data_offsets"]
    shape = tuple(record["shape"])
    if not all(type(number) is int and number >= 0 for number in (start, end, *shape)):
        raise ValueError("not a size")
    return Tensor(str(record["dtype"]), shape, start, end)
