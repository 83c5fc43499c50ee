"""Infers the roles of Parquet columns from their types and the Hugging Face metadata. Reads no image bytes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.training.data.errors import DatasetError, plain
from graft.training.data.readers.csv_table import grouping

LABELS = ("label", "labels")


@dataclass(frozen=True)
class Columns:
    """The roles of the columns and the label names.

    Attributes:
        image: the column with the encoded images.
        has_path: whether the image column is a struct with the field `path`.
        label_names: the names of integer labels; empty if labels are strings or unnamed integers.
        multilabel: whether a row has a list of labels.
        group: the column with the groups, if any.
    """

    image: str
    path: bool
    label: str
    names: tuple[str, ...]
    several: bool
    split: bool
    group: str | None

    def wanted(self) -> list[str]:
        """Return the columns to read for a listing: all except the image bytes."""
        names = [f"{self.image}.path" if self.path else "", self.label, "split" if self.split else "", self.group or ""]
        return list(dict.fromkeys(filter(None, names)))


def opened(file: Path) -> Any:
    """Open a file as a pyarrow.parquet.ParquetFile. Raises DatasetError if pyarrow is missing or the file is not readable."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise DatasetError("Parquet files need: pip install 'graft-vision[parquet]'") from None
    try:
        return parquet.ParquetFile(file, memory_map=True)
    except (OSError, pyarrow.ArrowException) as error:
        raise DatasetError(f"{file} is not a readable Parquet file: {error}".rstrip(".") + ".") from None


def meaning(file: Path, group_by: str | None) -> Columns:
    """Infer the role of each column. Raises DatasetError if the image or label column is ambiguous."""
    schema = opened(file).schema_arrow
    features = _features(schema.metadata or {})
    images = [name for name in schema.names if _is_image(schema.field(name).type)]
    image = _one(file, schema, "image", [[name for name in images if features.get(name, {}).get("_type") == "Image"], images])
    group = grouping(group_by, schema.names, file)
    candidates = [name for name in schema.names if name not in (image, "split", group) and _is_label(schema.field(name).type)]
    by_name = [name for name in candidates if name in LABELS]
    by_feature = [name for name in candidates if _class_names(features.get(name))]
    label = _one(file, schema, "label", [by_name, by_feature, candidates])
    image_type = schema.field(image).type
    return Columns(
        image=image,
        path=is_struct(image_type) and image_type.get_field_index("path") >= 0,
        label=label,
        names=_class_names(features.get(label)),
        several=_is_list(schema.field(label).type),
        split="split" in schema.names,
        group=group,
    )


def _one(file: Path, schema: Any, what: str, tiers: list[list[str]]) -> str:
    """Return the only column of the first non-empty tier."""
    candidates = next(filter(None, tiers), [])
    if len(candidates) == 1:
        return candidates[0]
    columns = ", ".join(f"{plain(field.name)} ({field.type})" for field in schema)
    reason = f"several candidates: {', '.join(map(plain, candidates))}" if candidates else "none"
    raise DatasetError(
        f"{file} must have one {what} column, but has {reason}. Name it {what} or remove the others. Columns: {columns}."
    )


def _features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """Return the Hugging Face feature of each column from the schema metadata."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return (
        {name: feature for name, feature in features.items() if isinstance(feature, dict | list)}
        if isinstance(features, dict)
        else {}
    )


def _class_names(about: Any) -> tuple[str, ...]:
    """Return the names of integer labels from a `ClassLabel` feature or a list of them; () for other features."""
    if isinstance(about, list) and about:
        about = about[0]
    if isinstance(about, dict) and about.get("_type") in ("Sequence", "List", "LargeList"):
        about = about.get("feature")
    if isinstance(about, dict) and about.get("_type") == "ClassLabel":
        return tuple(map(str, about.get("names") or ()))
    return ()


def is_struct(kind: Any) -> bool:
    """Return whether an Arrow type is a struct."""
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
    """Return a row's label names; add integer labels without a name to `unnamed_labels`."""
    names = []
    for value in label if isinstance(label, list) else [label]:
        if isinstance(value, int) and columns.names and value >= 0:
            if value >= len(columns.names):
                raise DatasetError(f"{path} has the label {value}, but the file names only {len(columns.names)} labels.")
            names.append(columns.names[value])
        elif isinstance(value, int) and not columns.names:
            numbers.add(value)
            names.append(str(value))
        elif isinstance(value, str) and value:
            names.append(value)
    return tuple(sorted(set(names)))
