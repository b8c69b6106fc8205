"""Model-agnostic meta-learning (Finn, Abbeel & Levine 2017): one network, adapted by its gradient."""

from dataclasses import dataclass
from typing import ClassVar

from bmaml.learners.emaml import EMAML
from bmaml.learners.interface import InvalidLearner


@dataclass(frozen=True)
class MAML(EMAML):
    """`emaml` with one particle: a point without epistemic variance.

    Raises:
        InvalidLearner: any other number of particles.
    """

    name: ClassVar[str] = "maml"

    particles: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.particles != 1:
            raise InvalidLearner(f"maml has one particle (emaml has many); found {self.particles}")
