"""What images may suffer on their way to the network, by name: how much of it is tried, and in which words it is told.

Names and numbers only, imported by the recipe; what each does to pixels is in `graft.training.robustness.corruption_ops`, what `--harden` shows
a network that learns in `graft.training.finetuning.datamodule`.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SAMPLE = 100  # images that are disturbed, unless somebody asks for more


@dataclass(frozen=True)
class Disturbance:
    """One kind of it.

    Attributes:
        axis: what a severity says.
        said: a severity, for a person: a format string.
        of: the images of one severity, in words: "answers change for 3% of images ..."; `{}` is `said`.
        severities: in the order of a curve; those from `unchanged` outwards are ever stronger.
        usual: the severities that an image may well meet, by which advice is given.
        unchanged: the severity that changes nothing.
        names: of severities, where a number says little.
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
        """A severity for a person; `unchanged` for the one that changes nothing."""
        return "unchanged" if severity == self.unchanged else self.names.get(severity, self.said.format(severity))

    def images(self, severity: float) -> str:
        """Images of that severity, for a person: `images turned by 30°`."""
        return f"images {self.of.format(self.words(severity))}"

    @property
    def curve(self) -> tuple[float, ...]:
        """All severities in order, the unchanged one among them."""
        weaker = tuple(severity for severity in self.severities if severity < self.unchanged)
        return (*weaker, self.unchanged, *self.severities[len(weaker) :])


NATURAL = (
    Disturbance("translation", "share of the side", "{:.0%}", "moved by {} of their side", (0.05, 0.1, 0.2, 0.3), (0.1,)),
    Disturbance("rotation", "degrees", "{:g}°", "turned by {}", (10, 30, 60, 90), (30,)),
    Disturbance("scale", "factor", "{:g}x", "shown {} as large", (0.5, 0.7, 1.4, 2), (0.7, 1.4), 1),
    Disturbance("flip", "direction", "{:g}", "mirrored {}", (1, 2), (1, 2), names={1: "left-right", 2: "up-down"}),
    Disturbance("brightness", "factor", "{:g}x", "{} as bright", (0.25, 0.5, 1.5, 2.5), (0.5, 1.5), 1),
    Disturbance("blur", "pixels of deviation", "{:g} px", "blurred by {}", (1, 2, 4, 8), (2,)),
    Disturbance("noise", "deviation in 255ths", "{:g}/255", "with noise of {}", (8, 16, 32, 64), (16,)),
    Disturbance(
        "jpeg",
        "quality lost, of 100",
        "{:g}",
        "saved as JPEG of {}",
        (50, 75, 90, 95),
        (75,),
        names={50: "quality 50", 75: "quality 25", 90: "quality 10", 95: "quality 5"},
    ),
    Disturbance("occlusion", "side of the cover", "{:.0%}", "with a cover of {} of their side", (0.2, 0.3, 0.5, 0.7), (0.3,)),
)
ADVERSARIAL = (
    Disturbance("fgsm", "255ths a pixel may move", "{:g}/255", "attacked by FGSM with {}", (1, 2, 4, 8), (1,)),
    Disturbance("pgd", "255ths a pixel may move", "{:g}/255", "attacked by PGD with {}", (1, 2), (1,)),
)
DISTURBANCES = {one.name: one for one in (*NATURAL, *ADVERSARIAL)}
HARDENING = tuple(one.name for one in NATURAL)  # what `--harden` knows


def hardening(names: Iterable[str]) -> tuple[str, ...]:
    """The names that `--harden` was given, each once and in the order of `HARDENING`.

    Raises:
        ValueError: if one does not exist.
    """
    given = set(names)
    for name in sorted(given - set(HARDENING)):
        close = difflib.get_close_matches(name, HARDENING, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(HARDENING)}"
        raise ValueError(f"{name!r} is nothing to harden against; {hint}")
    return tuple(name for name in HARDENING if name in given)
