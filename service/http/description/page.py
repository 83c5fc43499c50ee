"""The page /docs: the OpenAPI document as HTML, without scripts and without another origin."""

import json
from collections.abc import Iterable
from html import escape
from typing import Any

from ..responses import PROBLEM_TYPE
from .document import TAGS

Schema = dict[str, Any]
JSON = "application/json"
TITLES = {"bentoml": "BentoML"}
CURL_BODIES = {"image": "-F image=@photo.jpg", "images": "-F images=@photo1.jpg -F images=@photo2.jpg"}
PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>API of this service · Graft</title>
  <link rel="icon" href="page/icon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="page/page.css">
  <link rel="stylesheet" href="page/docs.css">
</head>
<body class="docs">
  <a class="skip" href="#main">Skip to the content</a>
  <header>
    <div class="strip">
      <p class="brand"><img src="page/icon.svg" alt="" width="28" height="28">Graft</p>
      <nav aria-label="Site"><a href="./">Try the model</a> <a href="docs.json">OpenAPI document</a></nav>
    </div>
    <h1>API of this service</h1>
    {introduction}
  </header>
  <div class="columns">
    <nav class="contents" aria-label="Contents">{contents}</nav>
    <main id="main">{sections}</main>
  </div>
  <footer><p>Graft {version}, OpenAPI {openapi}</p></footer>
</body>
</html>
"""


def render(document: Schema) -> str:
    """The page of an OpenAPI document."""
    groups = {tag: [item for item in _operations(document) if tag in item[2]["tags"]] for tag in TAGS}
    groups = {tag: group for tag, group in groups.items() if group}
    schemas = document["components"]["schemas"]
    return PAGE.format(
        introduction=_introduction(document),
        contents=_contents(groups),
        sections="".join([*(_group(tag, group, document) for tag, group in groups.items()), _models(schemas)]),
        version=escape(document["info"]["version"]),
        openapi=escape(document["openapi"]),
    )


def _operations(document: Schema) -> Iterable[tuple[str, str, Schema]]:
    return ((path, method, operation) for path, methods in document["paths"].items() for method, operation in methods.items())


def _introduction(document: Schema) -> str:
    commands = "In the commands, <code>$URL</code> is the address of this service."
    key = "Requests need the header <code>Authorization: Bearer KEY</code>, except where it says otherwise."
    paragraphs = [_text(paragraph) for paragraph in document["info"]["description"].split("\n\n")]
    return "".join(f"<p>{paragraph}</p>" for paragraph in [*paragraphs, commands, *([key] if "security" in document else [])])


def _contents(groups: dict[str, list[tuple[str, str, Schema]]]) -> str:
    parts = []
    for tag, group in groups.items():
        links = "".join(
            f'<li><a href="#{operation["operationId"]}">{_breakable(path)}</a></li>' for path, _, operation in group
        )
        parts.append(f'<h2><a href="#{tag}">{_title(tag)}</a></h2><ul>{links}</ul>')
    return "".join([*parts, '<h2><a href="#models">Models</a></h2>'])


def _group(tag: str, group: list[tuple[str, str, Schema]], document: Schema) -> str:
    operations = "".join(_operation(path, method, operation, document) for path, method, operation in group)
    title = f'<h2 id="{tag}">{_title(tag)}</h2><p>{_text(TAGS[tag])}</p>'
    return f'<section aria-labelledby="{tag}">{title}{operations}</section>'


def _operation(path: str, method: str, operation: Schema, document: Schema) -> str:
    name, description = operation["operationId"], operation["description"]
    is_public = "security" in document and operation.get("security") == []
    parts = [
        f'<h3 id="{name}"><span class="method {method}">{method.upper()}</span> <code>{_breakable(path)}</code></h3>',
        f"<p>{_text(operation['summary'])}</p>",
        f'<p class="soft">{_text(description)}</p>' if description != operation["summary"] else "",
        '<p class="soft">Needs no API key.</p>' if is_public else "",
        f'<pre tabindex="0"><code>{escape(_curl(path, method, operation))}</code></pre>',
        _parameters(operation["parameters"]),
        _success(operation["responses"]["200"], document["components"]["schemas"]),
        _errors(operation["responses"]),
    ]
    return f'<article class="panel" aria-labelledby="{name}">{"".join(parts)}</article>'


def _curl(path: str, method: str, operation: Schema) -> str:
    """A command for this operation; $URL is where the service is."""
    if method == "get":
        return f'curl "$URL{path}"'
    schema = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    return f'curl {CURL_BODIES["images" if schema["$ref"].endswith("ImagesForm") else "image"]} "$URL{path}"'


def _parameters(parameters: list[Schema]) -> str:
    if not parameters:
        return ""
    rows = [
        (f"<code>{escape(parameter['name'])}</code>", _type(parameter["schema"]), _parameter_text(parameter))
        for parameter in parameters
    ]
    return f"<h4>Parameters</h4>{_table(('name', 'type', 'meaning'), rows)}"


def _title(tag: str) -> str:
    return TITLES.get(tag, tag.capitalize())


def _parameter_text(parameter: Schema) -> str:
    text = _text(parameter["description"]) + (" (a header)" if parameter["in"] == "header" else "")
    default = parameter["schema"].get("default")
    return text if default is None else f"{text}; default: <code>{escape(json.dumps(default))}</code>"


def _success(response: Schema, schemas: Schema) -> str:
    parts = []
    for media_type, content in response["content"].items():
        schema = content["schema"]
        parts.append(f"<li><code>{escape(media_type)}</code>{f': {_type(schema)}' if '$ref' in schema else ''}</li>")
    model = response["content"].get(JSON, {}).get("schema", {}).get("$ref", "").rpartition("/")[2]
    example = "".join(_example(example) for example in schemas.get(model, {}).get("examples", []))
    return f"<h4>Response</h4><ul>{''.join(parts)}</ul>{example}"


def _example(example: object) -> str:
    text = escape(json.dumps(example, indent=2, ensure_ascii=False), quote=False)
    return f'<details><summary>Example</summary><pre tabindex="0"><code>{text}</code></pre></details>'


def _errors(responses: Schema) -> str:
    rows = []
    for status, response in responses.items():
        if PROBLEM_TYPE in response["content"]:
            examples = response["content"][PROBLEM_TYPE]["examples"]
            rows.append(
                (status, ", ".join(f"<code>{escape(code)}</code>" for code in examples), _text(response["description"]))
            )
    return f"<details><summary>Errors</summary>{_table(('status', 'code', 'title'), rows)}</details>"


def _models(schemas: Schema) -> str:
    models = "".join(_model(name, schema) for name, schema in schemas.items())
    return f'<section aria-labelledby="models"><h2 id="models">Models</h2>{models}</section>'


def _model(name: str, schema: Schema) -> str:
    rows = [
        (f"<code>{escape(field)}</code>", _type(value), _text(value.get("description", "")))
        for field, value in schema["properties"].items()
    ]
    text = f"<p>{_text(schema['description'])}</p>" if "description" in schema else ""
    content = f'<h3 id="model-{name}">{escape(name)}</h3>{text}{_table(("field", "type", "meaning"), rows)}'
    return f'<article class="panel" aria-labelledby="model-{name}">{content}</article>'


def _type(schema: Schema) -> str:
    """The type of a value in words, with links to models."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#model-{name}">{escape(name)}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(variant) for variant in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if isinstance(values := schema.get("additionalProperties"), dict):
        return f"object of {_type(values)}"
    kind = schema.get("type", "any")
    kind = "file" if schema.get("format") == "binary" else kind
    return escape(" or ".join(kind) if isinstance(kind, list) else kind)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(text: str) -> str:
    """Text with the parts in backticks as code."""
    return "".join(f"<code>{escape(part)}</code>" if index % 2 else escape(part) for index, part in enumerate(text.split("`")))


def _breakable(path: str) -> str:
    """A path that may continue on the next line after a slash."""
    return escape(path).replace("/", "/<wbr>")
