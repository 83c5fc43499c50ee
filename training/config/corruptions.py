"""Image corruptions by name: the severities that are tested, and how each severity is described.

Names and numbers only, because the recipe imports it. The pixel operations are in `graft.training.robustness.corruption_ops`,
and the training-time augmentations of `--augment-corruptions` in `graft.training.finetuning.augmentations`.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

DEFAULT_SAMPLE_SIZE = 100  # default number of images to corrupt


@dataclass(frozen=True)
class Corruption:
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
    axis_label: str
    severity_format: str
    images_format: str
    severities: tuple[float, ...]
    typical_severities: tuple[float, ...]
    identity: float = 0.0
    severity_names: Mapping[float, str] = field(default_factory=dict)

    def format_severity(self, severity: float) -> str:
        """The severity as text; `unchanged` for `identity`."""
        return (
            "unchanged"
            if severity == self.identity
            else self.severity_names.get(severity, self.severity_format.format(severity))
        )

    def describe_images(self, severity: float) -> str:
        """Phrase for images of this severity, such as `images rotated by 30°`."""
        return f"images {self.images_format.format(self.format_severity(severity))}"

    @property
    def all_severities(self) -> tuple[float, ...]:
        """All severities in plot order, including `identity`."""
        below = tuple(severity for severity in self.severities if severity < self.identity)
        return (*below, self.identity, *self.severities[len(below) :])


COMMON_CORRUPTIONS = (
    Corruption("translation", "share of the side", "{:.0%}", "translated by {} of their side", (0.05, 0.1, 0.2, 0.3), (0.1,)),
    Corruption("rotation", "degrees", "{:g}°", "rotated by {}", (10, 30, 60, 90), (30,)),
    Corruption("scale", "factor", "{:g}x", "scaled by {}", (0.5, 0.7, 1.4, 2), (0.7, 1.4), 1),
    Corruption("flip", "direction", "{:g}", "flipped {}", (1, 2), (1, 2), severity_names={1: "left-right", 2: "up-down"}),
    Corruption("brightness", "factor", "{:g}x", "at {} brightness", (0.25, 0.5, 1.5, 2.5), (0.5, 1.5), 1),
    Corruption("blur", "sigma in pixels", "{:g} px", "blurred by {}", (1, 2, 4, 8), (2,)),
    Corruption("noise", "sigma in 1/255", "{:g}/255", "with noise of {}", (8, 16, 32, 64), (16,)),
    Corruption(
        "jpeg",
        "100 - quality",
        "{:g}",
        "saved as JPEG with {}",
        (50, 75, 90, 95),
        (75,),
        severity_names={50: "quality 50", 75: "quality 25", 90: "quality 10", 95: "quality 5"},
    ),
    Corruption("occlusion", "side of the occluder", "{:.0%}", "occluded by {} of their side", (0.2, 0.3, 0.5, 0.7), (0.3,)),
)
ADVERSARIAL_ATTACKS = (
    Corruption("fgsm", "epsilon in 1/255", "{:g}/255", "attacked by FGSM with {}", (1, 2, 4, 8), (1,)),
    Corruption("pgd", "epsilon in 1/255", "{:g}/255", "attacked by PGD with {}", (1, 2), (1,)),
)
CORRUPTIONS = {corruption.name: corruption for corruption in (*COMMON_CORRUPTIONS, *ADVERSARIAL_ATTACKS)}
AUGMENTABLE_CORRUPTIONS = tuple(corruption.name for corruption in COMMON_CORRUPTIONS)  # values of `--augment-corruptions`


def parse_corruption_names(names: Iterable[str]) -> tuple[str, ...]:
    """Validates the values of `--augment-corruptions`; returns each once, in the order of `AUGMENTABLE_CORRUPTIONS`.

    Raises:
        ValueError: if a name is unknown.
    """
    requested = set(names)
    for name in sorted(requested - set(AUGMENTABLE_CORRUPTIONS)):
        close = difflib.get_close_matches(name, AUGMENTABLE_CORRUPTIONS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(AUGMENTABLE_CORRUPTIONS)}"
        raise ValueError(f"{name!r} is not a corruption; {hint}")
    return tuple(name for name in AUGMENTABLE_CORRUPTIONS if name in requested)
