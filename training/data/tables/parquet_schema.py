"""Infers the roles of Parquet columns from their types and the Hugging Face metadata. Reads no image bytes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.training.config.read_options import ReadOptions
from graft.training.data.errors import DatasetError, printable
from graft.training.data.tables import column_names
from graft.training.data.tables.table_columns import MAX_NAMES


@dataclass(frozen=True)
class TableSchema:
    """The roles of the columns and the label names.

    Attributes:
        image: the column with the encoded images.
        has_path: whether the image column is a struct with the field `path`.
        label_names: the names of integer labels; empty if labels are strings or unnamed integers.
        multilabel: whether a row has a list of labels.
        split: the column with the splits, if any.
        group: the column with the groups, if any.
    """

    image: str
    has_path: bool
    label: str
    label_names: tuple[str, ...]
    multilabel: bool
    split: str | None
    group: str | None

    def listing_columns(self) -> list[str]:
        """Return the columns to read for a listing: all except the image bytes."""
        names = [f"{self.image}.path" if self.has_path else "", self.label, self.split or "", self.group or ""]
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


def infer_schema(file: Path, options: ReadOptions) -> TableSchema:
    """Infer the role of each column, or take those that the options name.

    Raises:
        DatasetError: if the image or label column is ambiguous, or a column does not exist.
    """
    schema = open_parquet(file).schema_arrow
    features = _hugging_face_features(schema.metadata or {})
    images = [name for name in schema.names if _is_image(schema.field(name).type)]
    image = _requested(file, schema, "--path-column", options.path_column) or _select_column(
        file,
        schema,
        "image",
        [
            [name for name in images if features.get(name, {}).get("_type") == "Image"],
            [name for name in images if column_names.is_path(name)],
            images,
        ],
    )
    split = _requested(file, schema, "--split-column", options.split_column) or ("split" if "split" in schema.names else None)
    group = None if options.group_by == "none" else _group_column(file, schema, options.declared_group)
    candidates = [name for name in schema.names if name not in (image, split, group) and _is_label(schema.field(name).type)]
    label = _label_column(file, schema, options, candidates, features)
    image_type = schema.field(image).type
    return TableSchema(
        image=image,
        has_path=is_struct(image_type) and image_type.get_field_index("path") >= 0,
        label=label,
        label_names=_class_names(features.get(label)),
        multilabel=_is_list(schema.field(label).type),
        split=split,
        group=group,
    )


def _label_column(file: Path, schema: Any, options: ReadOptions, candidates: list[str], features: dict[str, Any]) -> str:
    if len(options.label_column) > 1:
        names = ",".join(options.label_column)
        raise DatasetError(f"--label-column {names}: a Parquet file has one label column, or a list in it.")
    if options.label_column:
        label = _requested(file, schema, "--label-column", options.label_column[0])
        if label in candidates:
            return label
        raise DatasetError(f"--label-column {label}: its type {schema.field(label).type} in {file} holds no labels.")
    by_name = [name for name in candidates if column_names.is_exact_label(name)]
    by_feature = [name for name in candidates if _class_names(features.get(name))]
    by_usual_name = [name for name in candidates if column_names.is_label(name)]
    return _select_column(file, schema, "label", [by_name, by_feature, by_usual_name, candidates])


def _requested(file: Path, schema: Any, flag: str, name: str | None) -> str | None:
    if name is not None and name not in schema.names:
        raise DatasetError(f"{flag} {name}: {file} has no such column, only {_list_names(list(map(printable, schema.names)))}.")
    return name


def _group_column(file: Path, schema: Any, group_by: str | None) -> str | None:
    """Return the column with the groups; None if --group-by is a regular expression on the path, not an identifier."""
    if group_by is None:
        return column_names.GROUP_NAME if column_names.GROUP_NAME in schema.names else None
    return _requested(file, schema, "--group-by", group_by) if group_by in schema.names or group_by.isidentifier() else None


def _select_column(file: Path, schema: Any, role: str, candidates_by_priority: list[list[str]]) -> str:
    """Return the only column of the first non-empty tier."""
    candidates = next(filter(None, candidates_by_priority), [])
    if len(candidates) == 1:
        return candidates[0]
    columns = _list_names([f"{printable(field.name)} ({field.type})" for field in schema])
    reason = f"several candidates: {_list_names(list(map(printable, candidates)))}" if candidates else "none"
    flag = {"image": "--path-column", "label": "--label-column"}[role]
    raise DatasetError(
        f"{file} must have one {role} column, but has {reason}. Say which one with {flag} NAME. Columns: {columns}."
    )


def _list_names(names: list[str]) -> str:
    more = f", … ({len(names):,} in all)" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


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
