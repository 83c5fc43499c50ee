"""Parquet files with an image column, as Hugging Face writes them -> a Listing, and where the images' bytes are.

A path is `SHARD/ROW` or `SHARD/ROW-NAME`: the file without its suffix, the row in it, and what the image was once called.
"""

import os
import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from graft.training.data.errors import MAX_FILE_BYTES, DatasetError, Mishaps
from graft.training.data.readers.class_folders import Listing, part_called
from graft.training.data.readers.csv_table import Rows
from graft.training.data.readers.parquet_schema import Columns, is_struct, label_names, meaning, opened
from graft.training.data.readers.source import Source
from graft.training.runtime.progress import Progress

SUFFIX = ".parquet"
KEPT = 4  # row groups; read in order, each is unpacked once, however many threads there are
KEPT_BYTES = 256 * 2**20
MAX_GROUP_BYTES = 4 * 2**30
BATCH = 8192  # rows


def listed(root: Path, shards: list[str], group_by: str | None, mishaps: Mishaps) -> tuple[Source, Listing, bool]:
    """The images in Parquet files.

    Args:
        root: one such file, or the folder that they lie in.
        shards: their paths below the root, or the file's own name.

    Raises:
        DatasetError: if they are damaged, disagree, or if it is not plain which column is the image and which the label.
    """
    if not root.is_dir() and shards != [root.name]:
        raise DatasetError(f"{root} holds Parquet files: unpack it first.")
    folder = root if root.is_dir() else root.parent
    named = {name[: -len(SUFFIX)]: folder / name for name in sorted(shards)}
    columns = meaning(next(iter(named.values())), group_by)
    parts = {shard: _part(shard) for shard in named}
    rows = Rows(columns.several, mishaps)
    numbers: set[int] = set()
    with Progress("listing", 0, "rows") as progress:
        for shard, file in named.items():
            if meaning(file, group_by) != columns:
                raise DatasetError(f"{file} has other columns or label names than the first file of {root}.")
            for row, (name, label, split, group) in enumerate(progress.each(_values(file, columns))):
                path = f"{shard}/{row}-{name}" if name else f"{shard}/{row}"
                rows.add(path, label_names(label, columns, path, numbers), split or parts[shard], group)
    listing = rows.finish()
    listing.multilabel = columns.several
    listing.order = columns.names or tuple(map(str, sorted(numbers)))
    return Source(folder, Shards(named, columns.image)), listing, columns.group is not None


class Shards:
    """Reads images out of Parquet files, a row group at a time; those read last are kept for all threads.

    Args:
        files: from a shard's name, as paths have it, to its file.
        image: the column.
    """

    def __init__(self, files: dict[str, Path], image: str) -> None:
        self._files, self._image = files, image
        self._kept = _Kept()

    def __reduce__(self) -> tuple[type["Shards"], tuple[dict[str, Path], str]]:
        return Shards, (self._files, self._image)

    def names(self, _: Mishaps, __: bool) -> Iterator[tuple[str, int]]:
        """Every row's path."""
        for shard, file in self._files.items():
            yield from ((f"{shard}/{row}", 0) for row in range(opened(file).metadata.num_rows))

    def read(self, path: str, n_bytes: int) -> bytes:
        """The first `n_bytes` of an image, all of it if negative."""
        shard, _, row = path.rpartition("/")
        content = self._cell(self._files[shard], int(row.partition("-")[0]))
        if content is None:
            raise ValueError("its row holds no bytes, at most the name of a file somewhere else")
        if len(content) > MAX_FILE_BYTES and n_bytes < 0:
            raise ValueError(f"it has {len(content):,} bytes; an image has at most {MAX_FILE_BYTES:,}.")
        return content if n_bytes < 0 else content[:n_bytes]

    def _cell(self, file: Path, row: int) -> bytes | None:
        if self._kept.process != os.getpid():  # a forked worker must not wait for a lock that nobody will release
            self._kept = _Kept()
        with self._kept.lock:
            starts = self._kept.starts.get(file) or self._kept.starts.setdefault(file, _starts(file))
            number = bisect_right(starts, row) - 1
            if row < 0 or number >= len(starts) - 1:
                raise ValueError("the file has no such row")
            column = self._kept.column(file, number, self._image)
            content: bytes | None = column[row - starts[number]].as_py()
        return content


class _Kept:
    """The row groups that one process read last."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.starts: dict[Path, list[int]] = {}  # the first row of each row group, and the number of all rows
        self._columns: OrderedDict[tuple[Path, int], Any] = OrderedDict()

    def column(self, file: Path, number: int, image: str) -> Any:
        """The bytes of a row group's images, as an Arrow array."""
        key = file, number
        if key not in self._columns:
            while self._columns and (len(self._columns) >= KEPT or sum(c.nbytes for c in self._columns.values()) > KEPT_BYTES):
                self._columns.popitem(last=False)
            self._columns[key] = _bytes(file, number, image)
        self._columns.move_to_end(key)
        return self._columns[key]


def _bytes(file: Path, number: int, image: str) -> Any:
    parquet = opened(file)
    group = parquet.metadata.row_group(number)
    if group.total_byte_size > MAX_GROUP_BYTES:
        raise ValueError(f"its row group unpacks to {group.total_byte_size:,} bytes: write the file with smaller row groups")
    struct = is_struct(parquet.schema_arrow.field(image).type)
    column = parquet.read_row_group(number, columns=[f"{image}.bytes" if struct else image], use_threads=False).column(0)
    array = column.combine_chunks()
    return array.field("bytes") if struct else array


def _starts(file: Path) -> list[int]:
    metadata = opened(file).metadata
    return list(accumulate((metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)), initial=0))


def _part(shard: str) -> str:
    """The part that a file's name means, or else that of a folder that it lies in: `data/train-00000-of-00002`."""
    for name in reversed(shard.split("/")):
        words = re.split(r"[-_.]", name)
        if part := part_called(words[0]) or part_called(words[-1]):
            return part
    return ""


def _values(file: Path, columns: Columns) -> Iterator[tuple[str, Any, str, str]]:
    """Each row's (name that its image once had, label, split, group)."""
    import pyarrow

    try:
        for batch in opened(file).iter_batches(BATCH, columns=columns.wanted(), use_threads=False):
            rows = {name: batch.column(name).to_pylist() for name in batch.schema.names}
            nothing = [None] * batch.num_rows
            images = rows[columns.image] if columns.path else nothing
            splits, groups = rows.get("split", nothing), rows[columns.group] if columns.group else nothing
            for image, label, split, group in zip(images, rows[columns.label], splits, groups, strict=True):
                called = str((image or {}).get("path") or "").replace("\\", "/").rpartition("/")[2]
                yield called, label, str(split or ""), "" if group is None else str(group)
    except pyarrow.ArrowException as error:
        raise DatasetError(f"{file} is damaged: {error}") from None
