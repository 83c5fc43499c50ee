"""Recognizes the columns of a table by their names, as Kaggle, Hugging Face, Roboflow and pandas write them."""

import re

from graft.training.data.split_names import split_and_rest

GROUP_NAME = "group"
_PATH = re.compile(
    r"(?:full|abs|rel|relative)?(?:file|image|img|photo|picture|pic)(?:file)?(?:path|name|id|index|code|uri|src)?s?"
    r"|(?:full|abs|rel|relative)?path|id|idcode|name|uri|src"
)
_LABEL = re.compile(
    r"(?:class|fgclass|label|category|target|disease|species|breed)(?:name|label|text|id|idx|code)?|ground_?truth|gt"
    r"|labels|classes|categories|species|genus|variety|cultivar|breeds|tags?|targets|diagnosis|dx|condition|type|kind|object|y"
    r"|findings?|findinglabels?|emotion|annotations?|attributeids|attributes|keywords|genres?|style|brand|sentiment"
)
_PLURAL = re.compile(
    r"labels|classes|categories|tags|targets?|findings|findinglabels|annotations|attributeids|attributes|keywords|genres"
)
_SPLIT = re.compile(r"split|set|subset|partition|usage|phase|mode|dataset|part")
_FOLD = re.compile(r"(?:k|cv)?folds?(?:id|no|number)?")
_INDEX = re.compile(r"|unnamed\d*|index|rownames|x1")  # the row numbers of pandas and R


def normalize(name: str) -> str:
    """Return the column name in lower case without spaces and punctuation: "imageid" for "Image ID" and "image_id"."""
    return re.sub(r"[\W_]+", "", name.casefold())


def is_path(name: str) -> bool:
    """Return whether a column is usually one of image files."""
    return _PATH.fullmatch(normalize(name)) is not None


def is_label(name: str) -> bool:
    """Return whether a column is usually one of labels."""
    return _LABEL.fullmatch(normalize(name)) is not None


def is_plural_label(name: str) -> bool:
    """Return whether the name of a label column promises several labels in a cell."""
    return _PLURAL.fullmatch(normalize(name)) is not None


def is_exact_label(name: str) -> bool:
    """Return whether a column is called a label outright, which wins over other names."""
    return normalize(name) in ("label", "labels")


def is_split(name: str) -> bool:
    """Return whether a column may have the names of splits."""
    return _SPLIT.fullmatch(normalize(name)) is not None


def is_fold(name: str) -> bool:
    """Return whether a column may have the numbers of folds."""
    return _FOLD.fullmatch(normalize(name)) is not None


def is_index(name: str) -> bool:
    """Return whether a column is the row number that pandas and R write: nameless, or "Unnamed: 0"."""
    return _INDEX.fullmatch(normalize(name)) is not None


def split_flag(name: str) -> str:
    """Return the split that a column of true and false marks, as fastai's is_valid; "" for other columns."""
    words = re.split(r"[\W_]+", name.casefold(), maxsplit=1)
    return split_and_rest(words[1])[0] if words[0] == "is" and len(words) == 2 else ""
