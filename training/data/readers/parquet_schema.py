"""What the columns of a Parquet file mean: by type, and by what Hugging Face wrote about them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.training.data.errors import DatasetError, plain
from graft.training.data.readers.csv_table import grouping

LABELS = ("label", "labels")


@dataclass(frozen=True)
class Columns:
    """Which column is what, and how its labels are called.

    Attributes:
        image: the column that holds the bytes, and `path` beside them if it is a struct that has one.
        names: of integer labels; empty if labels are strings or bare numbers.
        several: whether a row has a list of labels.
    """

    image: str
    path: bool
    label: str
    names: tuple[str, ...]
    several: bool
    split: bool
    group: str | None

    def wanted(self) -> list[str]:
        """What a listing reads: anything but the images' bytes."""
        named = [f"{self.image}.path" if self.path else "", self.label, "split" if self.split else "", self.group or ""]
        return list(dict.fromkeys(filter(None, named)))


def opened(file: Path) -> Any:
    """A pyarrow.parquet.ParquetFile."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise DatasetError("Parquet files need: pip install 'graft-vision[parquet]'") from None
    try:
        return parquet.ParquetFile(file, memory_map=True)
    except (OSError, pyarrow.ArrowException) as error:
        raise DatasetError(f"{file} is no readable Parquet file: {error}".rstrip(".") + ".") from None


def meaning(file: Path, group_by: str | None) -> Columns:
    """Found by type, and by what Hugging Face wrote about them."""
    schema = opened(file).schema_arrow
    features = _features(schema.metadata or {})
    images = [name for name in schema.names if _is_image(schema.field(name).type)]
    image = _one(file, schema, "image", [[n for n in images if features.get(n, {}).get("_type") == "Image"], images])
    given = grouping(group_by, schema.names, file)
    others = [name for name in schema.names if name not in (image, "split", given) and _is_label(schema.field(name).type)]
    named, known = [name for name in others if name in LABELS], [name for name in others if _class_names(features.get(name))]
    label = _one(file, schema, "label", [named, known, others])
    kind = schema.field(image).type
    return Columns(
        image=image,
        path=is_struct(kind) and kind.get_field_index("path") >= 0,
        label=label,
        names=_class_names(features.get(label)),
        several=_is_list(schema.field(label).type),
        split="split" in schema.names,
        group=given,
    )


def _one(file: Path, schema: Any, what: str, tiers: list[list[str]]) -> str:
    """The only column of the first tier that has any."""
    found = next(filter(None, tiers), [])
    if len(found) == 1:
        return found[0]
    columns = ", ".join(f"{plain(field.name)} ({field.type})" for field in schema)
    many = f"several that could be: {', '.join(map(plain, found))}" if found else "none"
    raise DatasetError(
        f"{file} should have one {what} column, and has {many}. Name it {what}, or leave out the rest. It has {columns}."
    )


def _features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """What Hugging Face wrote into the schema about each column."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return (
        {name: about for name, about in features.items() if isinstance(about, dict | list)}
        if isinstance(features, dict)
        else {}
    )


def _class_names(about: Any) -> tuple[str, ...]:
    """The names behind integer labels, of one or of a list of them."""
    if isinstance(about, list) and about:
        about = about[0]
    if isinstance(about, dict) and about.get("_type") in ("Sequence", "List", "LargeList"):
        about = about.get("feature")
    if isinstance(about, dict) and about.get("_type") == "ClassLabel":
        return tuple(map(str, about.get("names") or ()))
    return ()


def is_struct(kind: Any) -> bool:
    return str(kind).startswith("struct<")


def _is_list(kind: Any) -> bool:
    return str(kind).startswith(("list<", "large_list<", "fixed_size_list<"))


def _is_image(kind: Any) -> bool:
    if is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_image(kind.field("bytes").type)
    return str(kind) in ("binary", "large_binary")


def _is_label(kind: Any) -> bool:
    if _is_list(kind):
        return _is_label(kind.value_type)
    if str(kind).startswith("dictionary<"):
        return _is_label(kind.value_type)
    return str(kind) in ("string", "large_string", "bool") or str(kind).startswith(("int", "uint"))


def label_names(label: Any, columns: Columns, path: str, numbers: set[int]) -> tuple[str, ...]:
    """A row's label names; adds labels that are bare numbers to `numbers`."""
    named = []
    for value in label if isinstance(label, list) else [label]:
        if isinstance(value, int) and columns.names and value >= 0:
            if value >= len(columns.names):
                raise DatasetError(f"{path} has the label {value}, and the file names only {len(columns.names)}.")
            named.append(columns.names[value])
        elif isinstance(value, int) and not columns.names:
            numbers.add(value)
            named.append(str(value))
        elif isinstance(value, str) and value:
            named.append(value)
    return tuple(sorted(set(named)))
