"""JSON schemas of the responses, in the forms that generators of clients understand. No routes."""

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .examples import EXAMPLES

Schema = dict[str, Any]
REF = "#/components/schemas/{model}"
_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def reference(name: str) -> Schema:
    """The place of a schema, by its name."""
    return {"$ref": REF.format(model=name)}


def model_schemas(models: Iterable[type[BaseModel]]) -> Schema:
    """The schemas of these models and of all models that they contain, by name."""
    by_name = sorted(models, key=lambda model: model.__name__)
    _, document = models_json_schema([(model, "serialization") for model in by_name], ref_template=REF)
    return {name: _with_example(name, _described(simplify(schema))) for name, schema in document["$defs"].items()}


def simplify(schema: Any) -> Any:
    """A schema without what generators stumble over: titles of fields, `anyOf` with null, `const`, and tuples."""
    if isinstance(schema, list):
        return [simplify(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    properties = {name: simplify(value) for name, value in schema.get("properties", {}).items()}
    schema = {key: simplify(value) for key, value in schema.items() if key not in ("title", "propertyNames", "properties")}
    schema |= {"properties": properties} if properties else {}
    if schema.get("type") == "number":
        schema["format"] = "double"
    if "prefixItems" in schema:
        schema["items"] = schema.pop("prefixItems")[0]
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    return _without_union(schema)


def _without_union(schema: Schema) -> Schema:
    """`anyOf` of a plain type and null as one schema with two types, and of two kinds of numbers as one number.

    Enums and models stay unions with null: generators then name them once.
    """
    variants = schema.get("anyOf", [])
    plain = [variant for variant in variants if variant != {"type": "null"}]
    if plain and all(variant.get("type") in ("integer", "number") for variant in plain):
        plain = [plain[-1]]
    if len(plain) != 1 or "$ref" in plain[0] or "enum" in plain[0]:
        return schema
    merged = {**{key: value for key, value in schema.items() if key != "anyOf"}, **plain[0]}
    return merged | ({"type": [plain[0]["type"], "null"]} if {"type": "null"} in variants else {})


def _described(schema: Schema) -> Schema:
    """A model's schema with the attributes of its docstring as descriptions of its properties."""
    summary, _, attributes = schema.get("description", "").partition("Attributes:")
    for name, text in _ATTRIBUTE.findall(attributes):
        if name in schema["properties"]:
            schema["properties"][name].setdefault("description", " ".join(text.split()).rstrip("."))
    return schema | {"description": summary.strip()} if summary.strip() else schema


def _with_example(name: str, schema: Schema) -> Schema:
    return schema | {"examples": [EXAMPLES[name]]} if name in EXAMPLES else schema
