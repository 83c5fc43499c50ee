"""Recognizes splits and folds in the names of folders, files and table cells. Never looks at a file."""

import re
from functools import lru_cache

UNLABELED = "unlabeled"  # images to predict, such as Kaggle's seg_pred
# The words of Hugging Face's `datasets`, and those of images without labels.
_WORDS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
    UNLABELED: ("pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled", "unsup"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
# Words that say nothing about the content: a name of only these and a split's word can be no label.
_FILLER = re.compile(r"(?:sub|data)?sets?|data|splits?|images?|imgs?|pics?|photos?|pictures?|folder|dir|files")
_COMPOUND = re.compile(rf"({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})({_FILLER.pattern})")
_WORD = re.compile(r"[^\W\d_]+")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_FOLD = re.compile(r"(?:^|.*[\W_])(?:k?-?fold|cv)[\W_]*(\d{1,4})", re.IGNORECASE)


def split_from_name(name: str) -> str:
    """Return the split that a name stands for: "train", "validation", "test", "unlabeled", or "" if it is none of them."""
    return split_and_rest(name)[0]


@lru_cache(maxsize=4096)
def split_and_rest(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the split in a name and its other words: ("train", ("seg",)) for "seg_train", ("", …) if it names no split.

    A name is split into words at punctuation, underscores, spaces, digits and capital letters.
    """
    words = [word.casefold() for word in _WORD.findall(_CAMEL_CASE.sub(" ", name))]
    words = [part for word in words for part in _split_compound(word)]
    splits = {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
    rest = tuple(word for word in words if word not in _SPLIT_OF and not _FILLER.fullmatch(word))
    return (splits.pop() if len(splits) == 1 else ""), rest


def _split_compound(word: str) -> tuple[str, ...]:
    """Split a word such as "trainset" in two."""
    match = _COMPOUND.fullmatch(word)
    return match.groups() if match else (word,)


def is_evaluation(name: str) -> bool:
    """Return whether a name says "eval", which is the test set, or the validation set beside a test set."""
    return any(word.casefold().startswith("eval") for word in _WORD.findall(_CAMEL_CASE.sub(" ", name)))


def fold_from_name(name: str) -> int | None:
    """Return the number of a fold: 3 for "fold3", "fold_03" and "data-fold-3"; None for other names."""
    match = _FOLD.fullmatch(name)
    return int(match[1]) if match else None
