"""Reads Parquet files with an image column, such as Hugging Face data sets: builds a `Listing` and reads the images.

A path is `SHARD/ROW` or `SHARD/ROW-NAME`: the file without its suffix, the row index, and the original file name, if any.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graft.training.config.read_options import ReadOptions
from graft.training.data.errors import DatasetError, ScanIssues
from graft.training.data.listing import Listing, ListingBuilder
from graft.training.data.readers.source import Source
from graft.training.data.split_names import split_from_name
from graft.training.data.tables.parquet_rows import RowCache, check_file
from graft.training.data.tables.parquet_schema import TableSchema, infer_schema, label_names, open_parquet
from graft.training.runtime.progress import Progress

SUFFIX = ".parquet"
BATCH_ROWS = 1024  # rows


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
            check_file(file, columns)
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
    """Reads images from Parquet files in the order of their rows; all threads share a cache of the most recent rows.

    Args:
        files: shard name -> file.
        image_column: the name of the image column.
    """

    def __init__(self, files: dict[str, Path], image_column: str) -> None:
        self._files, self._image_column = files, image_column
        self._cache = RowCache(image_column)

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
        return content if n_bytes < 0 else content[:n_bytes]

    def _read_cell(self, file: Path, row: int) -> bytes | None:
        if self._cache.process != os.getpid():  # a lock inherited by a forked worker may never be released
            self._cache = RowCache(self._image_column)
        with self._cache.lock:
            return self._cache.read(file, row)


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
