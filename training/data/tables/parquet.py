"""Reads Parquet files with an image column, such as Hugging Face data sets: builds a `Listing` and reads the images.

A path is `SHARD/ROW` or `SHARD/ROW-NAME`: the file without its suffix, the row index, and the original file name, if any.
"""

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from graft.training.config.read_options import ReadOptions
from graft.training.data.errors import MAX_FILE_BYTES, DatasetError, ScanIssues
from graft.training.data.listing import Listing, ListingBuilder
from graft.training.data.readers.source import Source
from graft.training.data.split_names import split_from_name
from graft.training.data.tables.parquet_schema import TableSchema, infer_schema, is_struct, label_names, open_parquet
from graft.training.runtime.progress import Progress

SUFFIX = ".parquet"
MAX_CACHED_ROW_GROUPS = 4  # with sequential reads, each row group is decompressed once, for any number of threads
MAX_CACHED_BYTES = 256 * 2**20
MAX_ROW_GROUP_BYTES = 4 * 2**30
BATCH_ROWS = 8192  # rows


def read_listing(root: Path, shards: list[str], options: ReadOptions, issues: ScanIssues) -> tuple[Source, Listing, bool]:
    """List the images in Parquet files.

    Args:
        root: one Parquet file, or the folder with the files.
        shards: the paths of the files relative to the root, or the name of the single file.

    Returns:
        The source, the listing, and whether `group_by` is a column of the files.

    Raises:
        DatasetError: if a file is damaged, the schemas differ, or the image or label column is ambiguous.
    """
    if not root.is_dir() and shards != [root.name]:
        raise DatasetError(f"{root} contains Parquet files: extract them first.")
    folder = root if root.is_dir() else root.parent
    files = {name[: -len(SUFFIX)]: folder / name for name in sorted(shards)}
    columns = infer_schema(next(iter(files.values())), options)
    splits = {shard: _split_from_path(shard) for shard in files}
    builder = ListingBuilder(columns.multilabel, issues)
    unnamed_labels: set[int] = set()
    with Progress("listing", 0, "rows") as progress:
        for shard, file in files.items():
            if infer_schema(file, options) != columns:
                raise DatasetError(f"{file} has different columns or label names from the first file of {root}.")
            for row, (name, label, split, group) in enumerate(progress.track(_read_rows(file, columns))):
                path = f"{shard}/{row}-{name}" if name else f"{shard}/{row}"
                builder.add(path, label_names(label, columns, path, unnamed_labels), split or splits[shard], group)
    listing = builder.build()
    listing.multilabel = columns.multilabel
    split = f", split from {columns.split}" if columns.split else ", splits from file names" if any(splits.values()) else ""
    listing.layout = (
        f"{len(files)} Parquet file{'s' * (len(files) > 1)}: images from {columns.image}, labels from {columns.label}{split}"
    )
    listing.label_order = columns.label_names or tuple(map(str, sorted(unnamed_labels)))
    return Source(folder, ParquetReader(files, columns.image)), listing, columns.group is not None


class ParquetReader:
    """Reads images from Parquet files by row group; all threads share a cache of the most recent row groups.

    Args:
        files: shard name -> file.
        image_column: the name of the image column.
    """

    def __init__(self, files: dict[str, Path], image_column: str) -> None:
        self._files, self._image_column = files, image_column
        self._cache = _RowGroupCache()

    def __reduce__(self) -> tuple[type["ParquetReader"], tuple[dict[str, Path], str]]:
        return ParquetReader, (self._files, self._image_column)

    def list_files(self, _: ScanIssues, __: bool) -> Iterator[tuple[str, int]]:
        """Yield each row's path, with size 0."""
        for shard, file in self._files.items():
            yield from ((f"{shard}/{row}", 0) for row in range(open_parquet(file).metadata.num_rows))

    def read(self, path: str, n_bytes: int) -> bytes:
        """Return the first `n_bytes` of an image, or all of it if negative."""
        shard, _, row = path.rpartition("/")
        content = self._read_cell(self._files[shard], int(row.partition("-")[0]))
        if content is None:
            raise ValueError("its row has no image bytes, at most the path of an external file")
        if len(content) > MAX_FILE_BYTES and n_bytes < 0:
            raise ValueError(f"it has {len(content):,} bytes; an image has at most {MAX_FILE_BYTES:,}.")
        return content if n_bytes < 0 else content[:n_bytes]

    def _read_cell(self, file: Path, row: int) -> bytes | None:
        if self._cache.process != os.getpid():  # a lock inherited by a forked worker may never be released
            self._cache = _RowGroupCache()
        with self._cache.lock:
            starts = self._cache.starts.get(file) or self._cache.starts.setdefault(file, _row_group_starts(file))
            row_group = bisect_right(starts, row) - 1
            if row < 0 or row_group >= len(starts) - 1:
                raise ValueError("the file has no such row")
            column = self._cache.column(file, row_group, self._image_column)
            content: bytes | None = column[row - starts[row_group]].as_py()
        return content


class _RowGroupCache:
    """LRU cache of row groups in one process."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.starts: dict[Path, list[int]] = {}  # the first row of each row group, then the total number of rows
        self._columns: OrderedDict[tuple[Path, int], Any] = OrderedDict()

    def column(self, file: Path, row_group: int, image_column: str) -> Any:
        """Return the encoded images of a row group as an Arrow array."""
        key = file, row_group
        if key not in self._columns:
            while self._columns and (
                len(self._columns) >= MAX_CACHED_ROW_GROUPS
                or sum(array.nbytes for array in self._columns.values()) > MAX_CACHED_BYTES
            ):
                self._columns.popitem(last=False)
            self._columns[key] = _read_row_group(file, row_group, image_column)
        self._columns.move_to_end(key)
        return self._columns[key]


def _read_row_group(file: Path, row_group: int, image_column: str) -> Any:
    parquet = open_parquet(file)
    group = parquet.metadata.row_group(row_group)
    if group.total_byte_size > MAX_ROW_GROUP_BYTES:
        raise ValueError(
            f"its row group has {group.total_byte_size:,} bytes uncompressed: write the file with smaller row groups"
        )
    has_struct = is_struct(parquet.schema_arrow.field(image_column).type)
    column = parquet.read_row_group(
        row_group, columns=[f"{image_column}.bytes" if has_struct else image_column], use_threads=False
    ).column(0)
    array = column.combine_chunks()
    return array.field("bytes") if has_struct else array


def _row_group_starts(file: Path) -> list[int]:
    metadata = open_parquet(file).metadata
    return list(accumulate((metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)), initial=0))


def _split_from_path(shard: str) -> str:
    """Return the split named by a file or one of its folders, as in `data/train-00000-of-00002`; "" if there is none."""
    return next(filter(None, map(split_from_name, reversed(shard.split("/")))), "")


def _read_rows(file: Path, columns: TableSchema) -> Iterator[tuple[str, Any, str, str]]:
    """Yield (original file name, label, split, group) of each row."""
    import pyarrow

    try:
        for batch in open_parquet(file).iter_batches(BATCH_ROWS, columns=columns.listing_columns(), use_threads=False):
            rows = {name: batch.column(name).to_pylist() for name in batch.schema.names}
            empty = [None] * batch.num_rows
            images = rows[columns.image] if columns.has_path else empty
            splits, groups = rows[columns.split] if columns.split else empty, rows[columns.group] if columns.group else empty
            for image, label, split, group in zip(images, rows[columns.label], splits, groups, strict=True):
                name = str((image or {}).get("path") or "").replace("\\", "/").rpartition("/")[2]
                yield name, label, str(split or ""), "" if group is None else str(group)
    except pyarrow.ArrowException as error:
        raise DatasetError(f"{file} is damaged: {error}") from None
