"""The axis vocabulary of the method: what every tensor's dimensions are called.

`#task` may have length 1 and then stands for all tasks (the meta-learned start is shared by all).
Shapes are checked at run time in the tests and cost nothing elsewhere.
"""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor

Particles = Float[Tensor, "#task particle param"]
"""Flat parameters, one network per particle; used for their scores and directions too."""

Inputs = Float[Tensor, "task row input"]
Targets = Float[Tensor, "task row output"]
Mask = Bool[Tensor, "task row"]
"""True where a row is real, False where it is padding."""

Outputs = Float[Tensor, "task particle row output"]
Features = Float[Tensor, "task #particle row feature"]
"""Of one particle, or shared by all of them."""

LogWeights = Float[Tensor, "task particle"]
"""Logarithms of the particles' weights; they sum to one over particles."""

PerParticle = Float[Tensor, "task particle"]
PerTask = Float[Tensor, " #task"]
Gram = Float[Tensor, "#task particle particle"]
Moments = Float[Tensor, "task row output"]
PerRow = Float[Tensor, "task row"]
Verdicts = Bool[Tensor, " #task"]
"""One yes or no per task."""

Scalar = Float[Tensor, ""]

ScoreFunction = Callable[[Tensor], Tensor]
"""Particles in, the gradient of their log target density out."""
