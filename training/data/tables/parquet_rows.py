"""Decodes the rows of Parquet files in bounded memory and time.

A file of a few kilobytes can stand for terabytes: a value in a dictionary counts once, however many rows repeat it. So images
are decoded one row at a time, and the decoded bytes are counted.
"""

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from graft.training.data.errors import MAX_FILE_BYTES, DatasetError
from graft.training.data.readers.decompress import BOMB_CHECK_MIN_BYTES, MAX_COMPRESSION_RATIO
from graft.training.data.tables.parquet_schema import TableSchema, is_struct, open_parquet

MAX_CACHED_ROW_GROUPS = 4  # with sequential reads, each row group is decompressed once, for any number of threads
MAX_CACHED_BYTES = 256 * 2**20  # of all row groups but the current one
MAX_CURRENT_BYTES = 2**30  # of the current row group; earlier rows of a larger one are decoded again when they are needed
MAX_ROW_GROUP_BYTES = 4 * 2**30
MAX_CELL_BYTES = 2**16  # of a label, a split, a group or a file name
MAX_LABELS_PER_ROW = 1000  # on average
MIN_ROW_BYTES, ROW_CHECK_MIN_ROWS = 16, 100_000  # no image takes fewer bytes, in a file with many
BATCH_ROWS = 8192

Cell = bytes | int | None  # an encoded image; or its size, if that is too large; or none


def check_file(file: Path, columns: TableSchema) -> None:
    """Checks what a file declares and the lengths of its labels, before any row is decoded.

    Raises:
        DatasetError: if it stands for far more than it holds, or is damaged.
    """
    metadata, size = open_parquet(file).metadata, file.stat().st_size
    if metadata.num_rows > ROW_CHECK_MIN_ROWS and metadata.num_rows * MIN_ROW_BYTES > size:
        raise DatasetError(f"{file} declares {metadata.num_rows:,} rows in {size:,} bytes: those cannot be images.")
    n_compressed = 0
    for row_group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(row_group.column, range(row_group.num_columns)):
            n_compressed += column.total_compressed_size
            if column.num_values > MAX_LABELS_PER_ROW * max(row_group.num_rows, MAX_LABELS_PER_ROW):
                raise DatasetError(f"{file} has {column.num_values:,} values of {column.path_in_schema} in one row group.")
    if n_compressed > size:
        raise DatasetError(f"{file} is damaged: its columns have {n_compressed:,} bytes, and the file has {size:,}.")
    _check_cells(file, columns)


def _check_cells(file: Path, columns: TableSchema) -> None:
    """Checks the lengths of labels and names as dictionaries, which hold each value once."""
    import pyarrow
    from pyarrow import parquet

    names = columns.listing_columns()
    schema = open_parquet(file).schema
    leaves = [column for column in map(schema.column, range(len(schema.names))) if column.physical_type == "BYTE_ARRAY"]
    texts = [leaf.path for leaf in leaves if any(leaf.path == name or leaf.path.startswith(f"{name}.") for name in names)]
    opened = parquet.ParquetFile(file, memory_map=True, read_dictionary=texts)
    try:
        for number in range(opened.metadata.num_row_groups):  # one by one: Arrow cannot join the dictionaries of lists
            for batch in opened.iter_batches(BATCH_ROWS, row_groups=[number], columns=names, use_threads=False):
                if (longest := max(map(_longest_value, batch.columns), default=0)) > MAX_CELL_BYTES:
                    raise DatasetError(f"{file} has a label or name of {longest:,} bytes; the most is {MAX_CELL_BYTES:,}.")
    except pyarrow.ArrowException as error:
        raise DatasetError(f"{file} is damaged: {error}") from None


def _longest_value(array: Any) -> int:
    """The bytes of the longest text in an Arrow array; 0 if it holds none."""
    from pyarrow import compute, types

    if types.is_dictionary(array.type):
        is_text = types.is_string(array.type.value_type) or types.is_large_string(array.type.value_type)
        return (compute.max(compute.binary_length(array.dictionary)).as_py() or 0) if is_text else 0
    if types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type):
        return _longest_value(array.flatten())
    if types.is_struct(array.type):
        return max(map(_longest_value, array.flatten()), default=0)
    return 0


class RowCache:
    """The most recent rows of an image column, in one process. Not thread-safe: callers hold `lock`."""

    def __init__(self, image_column: str) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self._image_column = image_column
        self._starts: dict[Path, list[int]] = {}  # the first row of each row group, then the total number of rows
        self._row_groups: OrderedDict[tuple[Path, int], _RowGroup] = OrderedDict()

    def read(self, file: Path, row: int) -> bytes | None:
        """The encoded image in a row; None if it has none. Raises ValueError, DatasetError and errors of pyarrow."""
        starts = self._starts.get(file) or self._starts.setdefault(file, _row_group_starts(file))
        row_group = bisect_right(starts, row) - 1
        if row < 0 or row_group >= len(starts) - 1:
            raise ValueError("the file has no such row")
        return self._row_group(file, row_group).read(row - starts[row_group])

    def _row_group(self, file: Path, number: int) -> "_RowGroup":
        key = file, number
        if key not in self._row_groups:
            while self._row_groups and (
                len(self._row_groups) >= MAX_CACHED_ROW_GROUPS
                or sum(group.n_bytes for group in self._row_groups.values()) > MAX_CACHED_BYTES
            ):
                self._row_groups.popitem(last=False)
            self._row_groups[key] = _RowGroup(file, number, self._image_column)
        self._row_groups.move_to_end(key)
        return self._row_groups[key]


class _RowGroup:
    """The images of one row group, decoded in order, and kept as far as memory allows.

    Attributes:
        n_bytes: of the images that are kept.
    """

    def __init__(self, file: Path, number: int, image_column: str) -> None:
        self._file, self._number, self._image_column = file, number, image_column
        self.n_bytes = 0
        self._rows: OrderedDict[int, Cell] = OrderedDict()
        self._next_row, self._n_decoded = 0, 0
        self._problem = ""
        self._images = self._decode()

    def read(self, row: int) -> bytes | None:
        """The image in a row of this row group. Raises ValueError, or what made the file unreadable."""
        if row < self._next_row and row not in self._rows:  # it was dropped
            self._next_row, self._n_decoded, self._images = 0, 0, self._decode()
        while row not in self._rows:
            if self._problem:
                raise ValueError(self._problem)
            try:
                self._keep(next(self._images, None))
            except Exception as error:
                self._problem = str(error)  # for the rows that follow: they are not decoded again
                raise
        cell = self._rows[row]
        if isinstance(cell, int):
            raise ValueError(f"it has {cell:,} bytes; an image has at most {MAX_FILE_BYTES:,}.")
        return cell

    def _keep(self, cell: Cell) -> None:
        self._rows[self._next_row] = cell
        self._next_row += 1
        self.n_bytes += _n_bytes(cell)
        while self.n_bytes > MAX_CURRENT_BYTES and len(self._rows) > 1:
            self.n_bytes -= _n_bytes(self._rows.popitem(last=False)[1])

    def _decode(self) -> Iterator[Cell]:
        """Yield the rows one by one. Raises ValueError where they must not be decoded further."""
        from pyarrow import compute

        parquet = open_parquet(self._file)
        group = parquet.metadata.row_group(self._number)
        if group.total_byte_size > MAX_ROW_GROUP_BYTES:
            raise ValueError(
                f"its row group has {group.total_byte_size:,} bytes uncompressed: write the file with smaller row groups"
            )
        has_struct = is_struct(parquet.schema_arrow.field(self._image_column).type)
        columns = [f"{self._image_column}.bytes" if has_struct else self._image_column]
        most = max(BOMB_CHECK_MIN_BYTES, MAX_COMPRESSION_RATIO * _compressed_size(group))
        for batch in parquet.iter_batches(1, row_groups=[self._number], columns=columns, use_threads=False):
            array = batch.column(0).field("bytes") if has_struct else batch.column(0)
            n_bytes = compute.binary_length(array)[0].as_py() or 0
            self._n_decoded += n_bytes
            if self._n_decoded > most:
                raise ValueError(f"its row group decodes to more than {most:,} bytes: no set of images compresses that well")
            yield n_bytes if n_bytes > MAX_FILE_BYTES else array[0].as_py()


def _n_bytes(cell: Cell) -> int:
    return len(cell) if isinstance(cell, bytes) else 0


def _compressed_size(group: Any) -> int:
    return sum(group.column(index).total_compressed_size for index in range(group.num_columns))


def _row_group_starts(file: Path) -> list[int]:
    metadata = open_parquet(file).metadata
    return list(accumulate((metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)), initial=0))
