"""The particles of a kept policy, to act without a request."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bmaml_client.answers import Array, Posterior, PosteriorCard
from bmaml_client.errors import BadReply, InvalidInput
from bmaml_client.flow import Flow, Requester
from bmaml_client.inputs import to_rows
from bmaml_client.lookups import posterior_path
from bmaml_client.parsing import parse

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda a: np.maximum(a, 0),
    "tanh": np.tanh,
    "sine": np.sin,
}
"""By the name that the service gives them."""


@dataclass(frozen=True, eq=False)
class PolicyWeights:
    """Networks of a policy's particles; the first axis of each array is that of particles.

    Attributes:
        card: the posterior that they are of.
        layers: weight `[particle, input, output]` and bias `[particle, output]` of each layer.
        activation: between layers: relu, tanh or sine.
        std: σ of each action.
        lower, upper: the range of each action in training, to which commands are clipped.
        weights: of Thompson's choice.
        returns, episodes: as in `PolicyState`.
        rounds: of episodes so far.
        best: the particle whose latest episodes returned most.
        next_particle: the particle to act next where episodes are few.
        observations, actions: names of their columns.
    """

    card: PosteriorCard
    layers: tuple[tuple[Array, Array], ...]
    activation: str
    std: Array
    lower: Array
    upper: Array
    weights: Array
    returns: Array
    episodes: Array
    rounds: int
    best: int
    next_particle: int
    observations: tuple[str, ...]
    actions: tuple[str, ...]

    def means(self, observations: Any) -> Array:
        """Each particle's mean action at each observation, `[particle, row, action]`.

        Raises:
            InvalidInput: the rows are not as wide as observations are.
        """
        rows = np.asarray(to_rows(observations, (), "observations"), np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.observations):
            raise InvalidInput(
                f"observations are rows of {len(self.observations)} numbers; found {rows.shape}"
            )
        values: Array = np.broadcast_to(rows, (len(self.std), *rows.shape))
        for depth, (weight, bias) in enumerate(self.layers):
            values = values if depth == 0 else ACTIVATIONS[self.activation](values)
            values = values @ weight + bias[:, None]
        return values

    def act(
        self, observations: Any, random: np.random.Generator, particle: int | None = None
    ) -> tuple[Array, Array]:
        """A draw of one particle at each observation, and the command: the draw within the range of training.

        Args:
            particle: the one that acts; None is `best`.
        """
        chosen = self.best if particle is None else particle
        means = self.means(observations)[chosen]
        action = means + self.std[chosen] * random.standard_normal(means.shape)
        return action, np.clip(action, self.lower, self.upper)


def policy_weights(
    requester: Requester, posterior: Posterior | str, *, request_id: str | None = None
) -> Flow[PolicyWeights]:
    """Fetch the adapted particles of a kept policy.

    Raises:
        PosteriorGone, UnknownPosterior: the service does not have it.
        InvalidRequest: the posterior is not that of a policy.
        ClientError: the request failed; see `bmaml_client.errors`.
    """
    path, session = posterior_path(posterior), requester.sessions.of(posterior)
    reply = yield from requester.request("GET", path, request_id=request_id, session=session, binary=True)
    try:
        layers = [reply["layers"][str(depth)] for depth in range(len(reply["sizes"]) - 1)]
        if reply["activation"] not in ACTIVATIONS:
            raise BadReply(f"unknown activation {reply['activation']!r}: a newer client may know it")
        arrays = {name: reply[name] for name in ("std", "weights", "returns", "episodes")}
        return PolicyWeights(
            card=parse(PosteriorCard, reply["posterior"]),
            layers=tuple((each["weight"], each["bias"]) for each in layers),
            lower=np.array(reply["lower"], np.float64),
            upper=np.array(reply["upper"], np.float64),
            observations=tuple(reply["observations"]),
            actions=tuple(reply["actions"]),
            **{name: reply[name] for name in ("activation", "rounds", "best", "next_particle")},
            **arrays,
        )
    except (KeyError, TypeError):
        raise BadReply(
            "the reply is not the weights of a policy: is the service older than this client?"
        ) from None
