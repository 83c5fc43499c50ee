"""Did you mean ...? Finds the command or the option that was meant. Texts only."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches

MAX_SUGGESTIONS = 3
# Names that other tools use -> ours. Spelled without leading dashes, and with dashes inside.
COMMAND_SYNONYMS = {
    "train": "fit",
    "training": "fit",
    "finetune": "fit",
    "fine-tune": "fit",
    "learn": "fit",
    "test": "evaluate",
    "eval": "evaluate",
    "val": "evaluate",
    "score": "evaluate",
    "classify": "predict",
    "infer": "predict",
    "inference": "predict",
    "detect": "locate",
    "audit": "check",
    "validate": "check",
    "lint": "check",
    "benchmark": "compare",
    "describe": "inspect",
    "summary": "inspect",
    "show": "inspect",
    "run": "serve",
    "start": "serve",
    "server": "serve",
    "deploy": "serve",
    "export": "package",
    "bento": "build",
    "containerize": "build",
    "version": "-V",
    "env": "info",
    "doctor": "info",
    "quickstart": "demo",
}
OPTION_SYNONYMS = {
    "lr": ("--head-lr", "--backbone-lr"),
    "learning-rate": ("--head-lr", "--backbone-lr"),
    "lr-head": ("--head-lr",),
    "lr-backbone": ("--backbone-lr",),
    "accelerator": ("--device cuda", "--device cpu"),
    "gpu": ("--device cuda",),
    "gpus": ("--device cuda",),
    "cuda": ("--device cuda",),
    "cpu": ("--device cpu",),
    "no-cuda": ("--device cpu",),
    "devices": ("--device",),
    "model": ("--backbone",),
    "arch": ("--backbone",),
    "architecture": ("--backbone",),
    "pretrained": ("--weights",),
    "checkpoint": ("--weights", "--from"),
    "output": ("--out",),
    "output-dir": ("--out",),
    "out-dir": ("--out",),
    "o": ("--out",),
    "config": ("--recipe",),
    "bs": ("--batch-size",),
    "batch": ("--batch-size",),
    "b": ("--batch-size",),
    "e": ("--epochs",),
    "num-epochs": ("--epochs",),
    "max-epochs": ("--epochs",),
    "n-epochs": ("--epochs",),
    "wd": ("--weight-decay",),
    "img-size": ("--input-size",),
    "image-size": ("--input-size",),
    "imgsz": ("--input-size",),
    "size": ("--input-size",),
    "resolution": ("--input-size",),
    "augmentation": ("--augment",),
    "no-augmentation": ("--augment none",),
    "hflip": ("--flips",),
    "no-hflip": ("--no-flips",),
    "smoothing": ("--label-smoothing",),
    "scheduler": ("--schedule",),
    "early-stopping": ("--patience",),
    "class-weights": ("--balance weights",),
    "weighted-sampling": ("--balance sampling",),
    "scoring": ("--metric",),
    "hpo": ("--search",),
    "trials": ("--search",),
    "tune": ("--search",),
    "time": ("--budget",),
    "timeout": ("--budget",),
    "time-limit": ("--budget",),
    "freeze": ("--unfreeze",),
    "groups": ("--group-by",),
    "random-seed": ("--seed",),
    "logger": ("--tracker",),
    "tta": ("--ten-crop",),
    "k": ("--top-k",),
    "n": ("--top-k",),
    "threshold": ("--min-probability", "--min-accuracy"),
    "confidence": ("--min-probability",),
    "html": ("--report",),
    "save": ("--out",),
    "p": ("--port",),
    "bind": ("--host",),
    "address": ("--host",),
    "silent": ("--quiet",),
    "debug": ("--verbose",),
    "version": ("-V",),
}


def commands(word: str, known: Collection[str]) -> list[str]:
    """The commands that a word may stand for, best first."""
    wanted = word.lower().replace("_", "-")
    if wanted in COMMAND_SYNONYMS:
        return [COMMAND_SYNONYMS[wanted]]
    return [name for name in known if len(wanted) > 1 and name.startswith(wanted)] or get_close_matches(wanted, known, 1, 0.5)


def options(word: str, known: Sequence[str]) -> list[str]:
    """The options that a word such as `--batch_size=8` may stand for, best first."""
    wanted = word.lstrip("-").partition("=")[0].lower().replace("_", "-")
    by_name = {option.lstrip("-"): option for option in known if option.startswith("--")}
    if wanted in by_name:
        return [by_name[wanted]]
    if synonyms := [option for option in OPTION_SYNONYMS.get(wanted, ()) if option.partition(" ")[0] in known]:
        return synonyms
    if len(wanted) < 2:
        return []
    names = [name for name in by_name if name.startswith(wanted)]
    names = names or [name for name in by_name if wanted in name.split("-")]
    return [by_name[name] for name in (names or get_close_matches(wanted, by_name, MAX_SUGGESTIONS, 0.7))[:MAX_SUGGESTIONS]]


def question(found: Sequence[str]) -> str:
    """` Did you mean --epochs?`; empty without suggestions."""
    listed = " or ".join(filter(None, [", ".join(found[:-1]), *found[-1:]]))
    return f" Did you mean {listed}?" if found else ""
