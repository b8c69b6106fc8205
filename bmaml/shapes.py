"""The axis vocabulary of the method: the names of every tensor's dimensions.

`#task` may have length 1, which stands for all tasks: they share the meta-learned start. Shapes are checked
at run time in tests and cost nothing elsewhere.
"""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor

Particles = Float[Tensor, "#task particle param"]
"""Flat parameters, one network per particle; also their scores and directions."""

Inputs = Float[Tensor, "task row input"]
Targets = Float[Tensor, "task row output"]
Mask = Bool[Tensor, "task row"]
"""True where a row is real, False where it is padding."""

Outputs = Float[Tensor, "task particle row output"]
ChannelMoments = Float[Tensor, "task particle moment"]
"""Means and variances of the channels of a normalised network, block by block."""
Features = Float[Tensor, "task #particle row feature"]
"""Features of each particle; `#particle` has length 1 where all particles share them."""

LogWeights = Float[Tensor, "task particle"]
"""Logarithms of the particles' weights, which add up to one."""

PerParticle = Float[Tensor, "task particle"]
PerTask = Float[Tensor, " #task"]
Gram = Float[Tensor, "#task particle particle"]
Moments = Float[Tensor, "task row output"]
PerRow = Float[Tensor, "task row"]
Verdicts = Bool[Tensor, " #task"]
"""One truth value per task."""

Scalar = Float[Tensor, ""]

ScoreFunction = Callable[[Tensor], Tensor]
"""Maps particles to the gradient of their log target density."""
