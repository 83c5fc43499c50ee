"""Image corruptions by name: the severities that are tested, and how each severity is described.

Names and numbers only, because the recipe imports it. The pixel operations are in `graft.training.robustness.corruption_ops`,
and the training-time augmentations of `--augment-corruptions` in `graft.training.finetuning.augmentations`.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SAMPLE = 100  # default number of images to corrupt


@dataclass(frozen=True)
class Disturbance:
    """One type of image corruption.

    Attributes:
        axis_label: unit of the severity.
        severity_format: format string that turns a severity into text.
        images_format: phrase for images of one severity, after "images"; `{}` is the formatted severity.
        severities: in plot order; they get stronger with the distance from `identity`.
        typical_severities: severities that images meet in practice; recommendations are based on these.
        identity: severity that leaves the image unchanged.
        severity_names: replaces the number where a name says more.
    """

    name: str
    axis: str
    said: str
    of: str
    severities: tuple[float, ...]
    usual: tuple[float, ...]
    unchanged: float = 0.0
    names: Mapping[float, str] = field(default_factory=dict)

    def words(self, severity: float) -> str:
        """The severity as text; `unchanged` for `identity`."""
        return "unchanged" if severity == self.unchanged else self.names.get(severity, self.said.format(severity))

    def images(self, severity: float) -> str:
        """Phrase for images of this severity, such as `images rotated by 30°`."""
        return f"images {self.of.format(self.words(severity))}"

    @property
    def curve(self) -> tuple[float, ...]:
        """All severities in plot order, including `identity`."""
        below = tuple(severity for severity in self.severities if severity < self.unchanged)
        return (*below, self.unchanged, *self.severities[len(below) :])


NATURAL = (
    Disturbance("translation", "share of the side", "{:.0%}", "translated by {} of their side", (0.05, 0.1, 0.2, 0.3), (0.1,)),
    Disturbance("rotation", "degrees", "{:g}°", "rotated by {}", (10, 30, 60, 90), (30,)),
    Disturbance("scale", "factor", "{:g}x", "scaled by {}", (0.5, 0.7, 1.4, 2), (0.7, 1.4), 1),
    Disturbance("flip", "direction", "{:g}", "flipped {}", (1, 2), (1, 2), names={1: "left-right", 2: "up-down"}),
    Disturbance("brightness", "factor", "{:g}x", "at {} brightness", (0.25, 0.5, 1.5, 2.5), (0.5, 1.5), 1),
    Disturbance("blur", "sigma in pixels", "{:g} px", "blurred by {}", (1, 2, 4, 8), (2,)),
    Disturbance("noise", "sigma in 1/255", "{:g}/255", "with noise of {}", (8, 16, 32, 64), (16,)),
    Disturbance(
        "jpeg",
        "100 - quality",
        "{:g}",
        "saved as JPEG with {}",
        (50, 75, 90, 95),
        (75,),
        names={50: "quality 50", 75: "quality 25", 90: "quality 10", 95: "quality 5"},
    ),
    Disturbance("occlusion", "side of the occluder", "{:.0%}", "occluded by {} of their side", (0.2, 0.3, 0.5, 0.7), (0.3,)),
)
ADVERSARIAL = (
    Disturbance("fgsm", "epsilon in 1/255", "{:g}/255", "attacked by FGSM with {}", (1, 2, 4, 8), (1,)),
    Disturbance("pgd", "epsilon in 1/255", "{:g}/255", "attacked by PGD with {}", (1, 2), (1,)),
)
DISTURBANCES = {corruption.name: corruption for corruption in (*NATURAL, *ADVERSARIAL)}
HARDENING = tuple(corruption.name for corruption in NATURAL)  # values of `--augment-corruptions`


def hardening(names: Iterable[str]) -> tuple[str, ...]:
    """Validates the values of `--augment-corruptions`; returns each once, in the order of `AUGMENTABLE_CORRUPTIONS`.

    Raises:
        ValueError: if a name is unknown.
    """
    requested = set(names)
    for name in sorted(requested - set(HARDENING)):
        close = difflib.get_close_matches(name, HARDENING, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(HARDENING)}"
        raise ValueError(f"{name!r} is not a corruption; {hint}")
    return tuple(name for name in HARDENING if name in requested)
