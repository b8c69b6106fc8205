"""What is predicted at each query row: numbers, classes, ordered classes, actions."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from model_store.class_target import Label
from service.schemas.arrays import Doubles, DoubleValues, NumberRows, Numbers, NumberTables, ValueRows, Values


@dataclass(frozen=True)
class Variance:
    """The predictive variance: total is aleatoric plus epistemic."""

    total: Values
    aleatoric: Values
    epistemic: Values


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of the prediction: values[i][row] is the one at levels[i]."""

    levels: list[float]
    values: ValueRows


@dataclass(frozen=True)
class Interval:
    """The central interval that holds `level` of the probability."""

    level: float
    lower: Values
    upper: Values


@dataclass(frozen=True)
class IntervalByMethod(Interval):
    """The interval, where the request named a method.

    By `mixture` it is the central interval that holds `level` of the probability. By `conformal` it is mean ±
    threshold × std, and holds a row of a new task with probability `level` at least.
    """

    method: Literal["mixture", "conformal"]


@dataclass(frozen=True)
class ParticleMoments:
    """Each particle's own prediction: mean[particle][row], std (noise included), and weight[particle]."""

    mean: ValueRows
    std: ValueRows
    weight: Numbers


@dataclass(frozen=True)
class Prediction:
    """The predicted numbers, one entry per query row: a list for models with several outputs."""

    mean: Values
    std: Values
    variance: Variance
    quantiles: Quantiles
    interval: Annotated[
        IntervalByMethod | Interval, Field(description="with its method where the request named one")
    ]
    particles: ParticleMoments | None


@dataclass(frozen=True)
class ScoredPrediction(Prediction):
    """The predicted numbers, and the log density of the posted targets."""

    log_density: Annotated[
        DoubleValues, Field(description="of query.y under the answered mixture, in nats, per unit of y")
    ]


@dataclass(frozen=True)
class ActionPrediction:
    """The action at each query row, all by the same particle, and the belief about it.

    The moments are those of all particles together, by their weights: σ² is aleatoric, and their disagreement
    epistemic.
    """

    action: Annotated[Values, Field(description="as drawn: to be posted back in an episode")]
    command: Annotated[Values, Field(description="clipped to the range of each action: to be carried out")]
    particle: Annotated[
        int | None, Field(description="that acts; null for the mean, whose episodes are no particle's own")
    ]
    mean: Values
    std: Values
    variance: Variance
    particles: ParticleMoments | None


@dataclass(frozen=True)
class Entropy:
    """Predictive entropy in nats, per query row: expected (aleatoric) plus mutual information (epistemic)."""

    total: Numbers
    expected: Annotated[Numbers, Field(description="the part that no label removes")]
    mutual_information: Annotated[
        Numbers,
        Field(
            description="of label and hypothesis, which labels remove. A hypothesis is a particle, in some "
            "learners together with a draw of its class means, which is the same for all rows"
        ),
    ]


@dataclass(frozen=True)
class ParticleProbabilities:
    """Each particle's own prediction: probabilities[particle][row][class] and weight[particle]."""

    probabilities: NumberTables
    weight: Numbers


@dataclass(frozen=True)
class ClassPrediction:
    """The predicted classes, one entry per query row.

    Classes are those of the support set, as sent, or those of the model where they have one meaning.
    """

    classes: list[Label]
    probabilities: Annotated[NumberRows, Field(description="rows × classes")]
    label: Annotated[list[Label], Field(description="the most probable class")]
    entropy: Entropy
    margin: Annotated[
        Numbers, Field(description="the most probable class's probability less that of the next")
    ]
    variation_ratio: Annotated[Numbers, Field(description="the weight of hypotheses that name another class")]
    particles: ParticleProbabilities | None


@dataclass(frozen=True)
class ScoredClassPrediction(ClassPrediction):
    """The predicted classes, and the log probability of the posted ones."""

    log_density: Annotated[Doubles, Field(description="log probability of query.y, in nats")]


@dataclass(frozen=True)
class LabelQuantiles:
    """Quantiles of an ordered class: values[i][row] is the first label whose cumulative probability is
    levels[i] or more.
    """

    levels: list[float]
    values: list[list[Label]]


@dataclass(frozen=True)
class LabelInterval:
    """The labels from `lower` to `upper` of each row, which hold `level` of the probability or more."""

    level: float
    lower: list[Label]
    upper: list[Label]


@dataclass(frozen=True)
class OrderedPrediction(ClassPrediction):
    """The predicted classes where these stand in an order."""

    median: Annotated[list[Label], Field(description="the first label with half of the probability up to it")]
    quantiles: LabelQuantiles
    interval: LabelInterval


@dataclass(frozen=True)
class ScoredOrderedPrediction(OrderedPrediction):
    """The predicted ordered classes, and the log probability of the posted ones."""

    log_density: Annotated[Doubles, Field(description="log probability of query.y, in nats")]
