"""Where a network looks: heat maps over some images that it got right and some that it got wrong. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graft.service.explain.deletion import Deletion
from graft.service.explain.explainer import Explainer, Explanation, Method
from graft.service.explain.overlay import glowing, strength
from graft.service.imaging.preprocess import Decoded
from graft.training.visualization import contact_sheet
from graft.training.visualization.charts import percent
from graft.training.visualization.gallery import Answers
from graft.training.visualization.thumbnails import data_uri

SIDE = 176  # pixels of a picture
WORD = {"cam": "class activation maps", "gradcam": "Grad-CAM", "occlusion": "occlusion maps"}


@dataclass(frozen=True)
class Glow:
    """One heat map.

    Attributes:
        picture: a data URI.
        judged: what its deletion score says; None where it was not asked for.
    """

    label: str
    probability: float
    picture: str
    judged: Deletion | None


@dataclass(frozen=True)
class Heat:
    """One image, and where the network looked.

    Attributes:
        truth: the names of its labels.
        picture: a data URI of what the network saw.
        glows: for what it said; and if that was wrong, for what it should have said.
    """

    path: str
    truth: str
    right: bool
    picture: str
    glows: tuple[Glow, ...]


@dataclass(frozen=True)
class Heats:
    """Some heat maps, all by one method, and what their deletion scores say together."""

    method: str
    shown: tuple[Heat, ...]

    @property
    def sentence(self) -> str:
        """Whether these maps explain anything, for a person."""
        judged = [glow.judged for heat in self.shown for glow in heat.glows if glow.judged]
        n_good, n = sum(one.explains for one in judged), len(judged)
        score, chance = (float(np.mean([getattr(one, name) for one in judged])) for name in ("score", "chance"))
        return (
            f"Deletion confirms {n_good or 'none'} of {n} maps: while what glows is covered, the label keeps"
            f" {percent(score)} of probability on average; with the same shape in other places, {percent(chance)}."
        )


def telling(answers: Answers, n_each: int) -> list[int]:
    """Rows of images that were answered right, of as many labels as possible and none of them chosen for being easy, then of
    those that were answered wrong with the most confidence.
    """
    said, sure = answers.probabilities.argmax(axis=1), answers.probabilities.max(axis=1)
    right = np.array([label in own for label, own in zip(said.tolist(), answers.truth, strict=True)], bool)
    wrong = [row for row in np.argsort(-sure, kind="stable").tolist() if not right[row]]
    by_label = [_from_the_middle(np.flatnonzero(right & (said == label)), sure) for label in np.unique(said[right])]
    rounds = [rows[turn] for turn in range(n_each) for rows in by_label if turn < len(rows)]
    return [*rounds[:n_each], *wrong[:n_each]]


def _from_the_middle(rows: np.ndarray, sure: np.ndarray) -> list[int]:
    """Rows by how near their confidence is to the median of them all."""
    ranked = rows[np.argsort(sure[rows], kind="stable")]
    nearest = np.argsort(np.abs(np.arange(len(ranked)) - (len(ranked) - 1) / 2), kind="stable")
    found: list[int] = ranked[nearest].tolist()
    return found


def heats(
    explainer: Explainer,
    answers: Answers,
    labels: Sequence[str],
    decoded: Callable[[str], Decoded | None],
    rows: Sequence[int],
    method: Method | None,
    steps: int,
    moves: int,
) -> Heats | None:
    """The heat maps of some rows of the answers; None of no image.

    Args:
        decoded: the pixels of the image at a path; None if it cannot be read any more.
        method: as of `Explainer.explain`.
        steps, moves: how thoroughly the deletion scores are measured.
    """
    shown: list[Heat] = []
    told = ""
    for row in rows:
        path, own, seen = answers.paths[row], answers.truth[row], decoded(answers.paths[row])
        if seen is None:
            continue
        said = int(answers.probabilities[row].argmax())
        asked = [said] if said in own or not own else [said, own[0]]
        found = [explainer.explain(seen, label, method) for label in asked]
        judged = explainer.deletion(found[0], steps=steps, moves=moves)
        glows = [_glow(one, None if turn else judged) for turn, one in enumerate(found)]
        truth = ", ".join(labels[label] for label in own) or "no label"
        picture = data_uri(contact_sheet.photo(seen.pixels, SIDE))
        shown.append(Heat(path, truth, said in own, picture, tuple(glows)))
        told = WORD[found[0].method]
    return Heats(told, tuple(shown)) if shown else None


def _glow(explanation: Explanation, judged: Deletion | None) -> Glow:
    picture = glowing(explanation.decoded.pixels, strength(explanation), SIDE)
    return Glow(explanation.label, explanation.probability, data_uri(contact_sheet.photo(picture, SIDE)), judged)
