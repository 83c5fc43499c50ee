"""Infers the roles of Parquet columns from their types and the Hugging Face metadata. Reads no image bytes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.training.data.errors import DatasetError, printable
from graft.training.data.readers.csv_table import group_column

LABEL_COLUMNS = ("label", "labels")


@dataclass(frozen=True)
class TableSchema:
    """The roles of the columns and the label names.

    Attributes:
        image: the column with the encoded images.
        has_path: whether the image column is a struct with the field `path`.
        label_names: the names of integer labels; empty if labels are strings or unnamed integers.
        multilabel: whether a row has a list of labels.
        group: the column with the groups, if any.
    """

    image: str
    has_path: bool
    label: str
    label_names: tuple[str, ...]
    multilabel: bool
    has_split: bool
    group: str | None

    def listing_columns(self) -> list[str]:
        """Return the columns to read for a listing: all except the image bytes."""
        names = [f"{self.image}.path" if self.has_path else "", self.label, "split" if self.has_split else "", self.group or ""]
        return list(dict.fromkeys(filter(None, names)))


def open_parquet(file: Path) -> Any:
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


def infer_schema(file: Path, group_by: str | None) -> TableSchema:
    """Infer the role of each column. Raises DatasetError if the image or label column is ambiguous."""
    schema = open_parquet(file).schema_arrow
    features = _hugging_face_features(schema.metadata or {})
    images = [name for name in schema.names if _is_image(schema.field(name).type)]
    image = _select_column(
        file, schema, "image", [[name for name in images if features.get(name, {}).get("_type") == "Image"], images]
    )
    group = group_column(group_by, schema.names, file)
    candidates = [name for name in schema.names if name not in (image, "split", group) and _is_label(schema.field(name).type)]
    by_name = [name for name in candidates if name in LABEL_COLUMNS]
    by_feature = [name for name in candidates if _class_names(features.get(name))]
    label = _select_column(file, schema, "label", [by_name, by_feature, candidates])
    image_type = schema.field(image).type
    return TableSchema(
        image=image,
        has_path=is_struct(image_type) and image_type.get_field_index("path") >= 0,
        label=label,
        label_names=_class_names(features.get(label)),
        multilabel=_is_list(schema.field(label).type),
        has_split="split" in schema.names,
        group=group,
    )


def _select_column(file: Path, schema: Any, role: str, candidates_by_priority: list[list[str]]) -> str:
    """Return the only column of the first non-empty tier."""
    candidates = next(filter(None, candidates_by_priority), [])
    if len(candidates) == 1:
        return candidates[0]
    columns = ", ".join(f"{printable(field.name)} ({field.type})" for field in schema)
    reason = f"several candidates: {', '.join(map(printable, candidates))}" if candidates else "none"
    raise DatasetError(
        f"{file} must have one {role} column, but has {reason}. Name it {role} or remove the others. Columns: {columns}."
    )


def _hugging_face_features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
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


def _class_names(feature: Any) -> tuple[str, ...]:
    """Return the names of integer labels from a `ClassLabel` feature or a list of them; () for other features."""
    if isinstance(feature, list) and feature:
        feature = feature[0]
    if isinstance(feature, dict) and feature.get("_type") in ("Sequence", "List", "LargeList"):
        feature = feature.get("feature")
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
        return tuple(map(str, feature.get("names") or ()))
    return ()


def is_struct(arrow_type: Any) -> bool:
    """Return whether an Arrow type is a struct."""
    return str(arrow_type).startswith("struct<")


def _is_list(arrow_type: Any) -> bool:
    return str(arrow_type).startswith(("list<", "large_list<", "fixed_size_list<"))


def _is_image(arrow_type: Any) -> bool:
    if is_struct(arrow_type):
        return arrow_type.get_field_index("bytes") >= 0 and _is_image(arrow_type.field("bytes").type)
    return str(arrow_type) in ("binary", "large_binary")


def _is_label(arrow_type: Any) -> bool:
    if _is_list(arrow_type):
        return _is_label(arrow_type.value_type)
    if str(arrow_type).startswith("dictionary<"):
        return _is_label(arrow_type.value_type)
    return str(arrow_type) in ("string", "large_string", "bool") or str(arrow_type).startswith(("int", "uint"))


def label_names(label: Any, columns: TableSchema, path: str, unnamed_labels: set[int]) -> tuple[str, ...]:
    """Return a row's label names; add integer labels without a name to `unnamed_labels`."""
    names = []
    for value in label if isinstance(label, list) else [label]:
        if isinstance(value, int) and columns.label_names and value >= 0:
            if value >= len(columns.label_names):
                raise DatasetError(f"{path} has the label {value}, but the file names only {len(columns.label_names)} labels.")
            names.append(columns.label_names[value])
        elif isinstance(value, int) and not columns.label_names:
            unnamed_labels.add(value)
            names.append(str(value))
        elif isinstance(value, str) and value:
            names.append(value)
    return tuple(sorted(set(names)))
