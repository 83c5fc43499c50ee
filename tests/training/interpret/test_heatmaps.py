"""Heat maps over images that were answered rightly and wrongly: none chosen for being easy, and their worth told."""

import numpy as np
import pytest

from graft.service.explain.deletion import Deletion
from graft.service.explain.explainer import Explainer
from graft.training.interpret.heatmaps import Glow, Heat, Heats, heats, telling
from graft.training.visualization.gallery import Answers


def answers(*rows: tuple[int, list[float]]) -> Answers:
    """(true label, probabilities) of each image."""
    chances = np.array([chances for _, chances in rows], np.float32)
    return Answers(tuple(f"{row}.png" for row in range(len(rows))), tuple((truth,) for truth, _ in rows), chances)


def test_right_answers_come_from_every_label_and_from_the_middle_of_its_confidence():
    found = answers(
        (0, [0.99, 0.01]), (0, [0.7, 0.3]), (0, [0.8, 0.2]), (1, [0.4, 0.6]), (1, [0.1, 0.9]), (1, [0.2, 0.8])
    )  # fmt: skip
    assert telling(found, 2) == [2, 5]


def test_the_surest_mistakes_follow():
    found = answers((0, [0.9, 0.1]), (1, [0.6, 0.4]), (1, [0.8, 0.2]), (0, [0.3, 0.7]))
    assert telling(found, 2) == [0, 2, 3] or telling(found, 2)[1:] == [2, 3]
    assert telling(found, 1) == [0, 2]


def test_a_perfect_network_has_only_right_answers():
    assert telling(answers((0, [0.9, 0.1]), (1, [0.2, 0.8])), 4) == [0, 1]


def test_maps_are_made_for_what_was_said_and_for_what_should_have_been(model, clothes):
    (truth, encoded), explainer = clothes[3], Explainer(model.artifact)
    labels, decoded = model.manifest.labels, model.decode(encoded)
    chances = np.zeros((2, 10), np.float32)
    chances[0, labels.index(truth)] = chances[1, 7] = 1
    own = (labels.index(truth),)
    said = Answers(("right.png", "wrong.png"), (own, own), chances)
    found = heats(explainer, said, labels, lambda _: decoded, [0, 1], None, 2, 9)
    right, wrong = found.shown
    assert (found.method, right.right, wrong.right) == ("class activation maps", True, False)
    assert [glow.label for glow in right.glows] == [truth]
    assert [glow.label for glow in wrong.glows] == [labels[7], truth]
    assert all(glow.picture.startswith("data:image/webp") for heat in found.shown for glow in heat.glows)
    assert wrong.glows[1].judged is None
    assert wrong.glows[0].judged is not None


def test_nothing_is_shown_of_no_image(model):
    assert heats(Explainer(model.artifact), answers((0, [1.0, 0.0])), ("a", "b"), lambda _: None, [], None, 2, 9) is None


@pytest.mark.parametrize(
    ("beaten", "expected"),
    [((1.0, 1.0, 0.2), "Deletion confirms 2 of 3 maps"), ((0.3, 0.1), "Deletion confirms none of 2 maps")],
)
def test_the_maps_worth_is_told(beaten, expected):
    shown = tuple(Heat("a.png", "a", True, "", (Glow("a", 0.9, "", Deletion(0.25, 0.5, share, ())),)) for share in beaten)
    told = Heats("class activation maps", shown).sentence
    assert told.startswith(expected)
    assert "keeps 25.0% of probability on average; with the same shape in other places, 50.0%." in told
