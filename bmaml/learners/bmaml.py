"""BMAML (Yoon et al. 2018): Bayesian fast adaptation, meta-trained with the chaser loss."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from bmaml.densities import PRECISIONS
from bmaml.learners.bfa import BFA
from bmaml.learners.interface import InvalidLearner, Learned
from bmaml.shapes import Scalar
from bmaml.task import TaskBatch


@dataclass(frozen=True)
class BMAML(BFA):
    """Adapt as `bfa` does; minimise the distance that the particles still have to travel.

    The *chaser* takes `steps` SVGD steps on the support set; the *leader* takes `leader_steps`
    more from there, with the query set as well. The loss is Σₘ ‖wₘ chaser − wₘ leader‖², over
    weights alone (log γ and log λ are left out), and no gradient flows through the leader.

    Attributes:
        leader_steps: steps of the leader beyond the chaser's.

    Raises:
        InvalidLearner: fewer than one leader step, or no chaser step for gradients to reach.
    """

    name: ClassVar[str] = "bmaml"

    leader_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise InvalidLearner(f"the chaser needs at least one step; found {self.steps}")
        if self.leader_steps < 1:
            raise InvalidLearner(f"the leader needs at least one step; found {self.leader_steps}")

    def loss(self, learned: Learned, batch: TaskBatch) -> Scalar:
        """The chaser loss, second order through SVGD."""
        chaser = self.adapt(learned, batch.support).particles
        with torch.no_grad():
            examples = batch.all_examples()
            leader = self._move(chaser, examples, self.leader_steps, self._rates(learned, examples))
            # The precisions do not count in the distance, and equal ones add nothing to it.
            leader[..., -PRECISIONS:] = chaser[..., -PRECISIONS:]
        return torch.linalg.vector_norm(chaser - leader).square() / len(batch)
