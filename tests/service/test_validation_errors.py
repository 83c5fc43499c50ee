"""Why a value is invalid, in our own words."""

import json
import re
from collections.abc import Callable
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graft.service.api.options import ClassifyOptions, ExplainOptions, Options, SimilarOptions, parse_options
from graft.service.errors import ProblemError
from graft.service.manifest import Manifest
from graft.service.settings import Settings
from graft.service.validation_errors import problems, reworded
from graft.training.config.recipe import Recipe, resolve_recipe

# Values that no field, or hardly any, accepts; every kind that JSON, YAML or Python can give.
ODD_VALUES = (
    "",
    "x",
    "nan",
    "1e999",
    -1,
    0,
    10**30,
    1.5,
    float("nan"),
    float("-inf"),
    True,
    None,
    [],
    ["a"],
    {},
    {"a": 1},
    b"\xff",
)
PYDANTIC = re.compile(
    r"Input should|Field required|Extra inputs|Value error|[Uu]nable to|should (be|have|match)|validation error|pydantic"
)


class Example(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    count: int = Field(1, gt=0, le=10)
    share: float = Field(0.5, ge=0, lt=1)
    name: str = Field("a", min_length=1, pattern="^[a-z]+$")
    mode: Literal["auto", "probe"] | Literal["finetune"] = "auto"
    flag: bool = True
    names: tuple[str, ...] = Field((), max_length=2)


@pytest.mark.parametrize(
    ("values", "name", "reason"),
    [
        ({"count": 0}, "count", "must be greater than 0"),
        ({"count": 11}, "count", "must be at most 10"),
        ({"count": "x"}, "count", "must be a whole number"),
        ({"count": 1.5}, "count", "must be a whole number"),
        ({"share": -1}, "share", "must be at least 0"),
        ({"share": 1}, "share", "must be less than 1"),
        ({"share": "x"}, "share", "must be a number"),
        ({"share": "nan"}, "share", "must be a finite number"),
        ({"name": ""}, "name", "must not be empty"),
        ({"name": "B"}, "name", "must match the regular expression ^[a-z]+$"),
        ({"name": 5}, "name", "must be text"),
        ({"mode": "finetun"}, "mode", "must be auto, probe or finetune (did you mean finetune?)"),
        ({"mode": "x"}, "mode", "must be auto, probe or finetune"),
        ({"flag": "maybe"}, "flag", "must be true or false"),
        ({"names": 5}, "names", "must be a list"),
        ({"names": ["a", 5]}, "names", "must be text"),
        ({"names": ["a", "b", "c"]}, "names", "must have 2 values or fewer, not 3"),
        ({"other": 1}, "other", "does not exist"),
    ],
)
def test_reason_is_in_plain_words(values: dict[str, object], name: str, reason: str):
    with pytest.raises(ValidationError) as raised:
        Example.model_validate(values)
    assert [(problem.name, problem.reason) for problem in problems(raised.value)] == [(name, reason)]


def test_reworded_error_keeps_its_field_and_value():
    with pytest.raises(ValidationError) as raised:
        Example.model_validate({"count": 0, "share": "x"})
    again = reworded(raised.value)
    assert [(one["loc"], one["input"], one["msg"]) for one in again.errors()] == [
        (("count",), 0, "must be greater than 0"),
        (("share",), "x", "must be a number"),
    ]
    assert problems(again) == problems(raised.value)


def refusal(function: Callable[..., object], *arguments: object, **options: object) -> str:
    """The message of a refusal; "" if there is none."""
    try:
        function(*arguments, **options)
    except ValidationError as error:
        return " ".join(problem["msg"] for problem in error.errors())
    except (ValueError, ProblemError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", Recipe.model_fields)
def test_no_value_of_an_option_brings_pydantics_words(name: str):
    messages = [refusal(resolve_recipe, None, {name: value}) for value in ODD_VALUES]
    messages += [refusal(Recipe, **{name: value}) for value in ODD_VALUES]
    assert any(messages)
    assert [message for message in messages if PYDANTIC.search(message) or "is not valid." in message] == []


@pytest.mark.parametrize("name", sorted(set(Settings.model_fields) - {"api_key"}))
def test_no_value_of_a_setting_brings_pydantics_words(name: str):
    values = ("", "x", "nan", "-1", "0", "1e999", "9" * 5000)
    messages = [refusal(Settings.from_environment, {f"GRAFT_{name.upper()}": value}) for value in values]
    assert [message for message in messages if PYDANTIC.search(message)] == []


@pytest.mark.parametrize("model", [ClassifyOptions, SimilarOptions, ExplainOptions])
def test_no_value_of_a_request_brings_pydantics_words(model: type[Options]):
    messages = [refusal(parse_options, model, {name: value}) for name in model.model_fields for value in ODD_VALUES]
    assert any(messages)
    assert [message for message in messages if PYDANTIC.search(message)] == []


def test_no_damage_of_a_manifest_brings_pydantics_words(fitted):
    from graft.service import artifact

    manifest = json.loads((fitted.package / "manifest.json").read_text())
    for name in manifest.keys() - {"format"}:
        for value in (None, -1, "x", [], {}, [1], {"a": {}}):
            content = json.dumps(manifest | {name: value}).encode()
            with pytest.raises(artifact.ArtifactError) as raised:
                artifact._parse_manifest(fitted.package / "manifest.json", content)
            assert not PYDANTIC.search(str(raised.value)), (name, value, str(raised.value))
    assert Manifest.model_validate(manifest).labels


def test_api_names_the_option_and_its_value(classifier):
    with pytest.raises(ValueError, match=r"^top_k=0: must be at least 1$"):
        classifier.predict(b"", top_k=0)
