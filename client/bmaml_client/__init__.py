"""Python client of bmaml-service: it takes arrays and data frames, and returns typed answers.

It needs httpx, numpy and safetensors. `bmaml_client.estimators` has scikit-learn's interface.
"""

from bmaml_client.answer_warnings import AnswerWarning
from bmaml_client.answers import (
    Answer,
    Choice,
    ClassPrediction,
    Posterior,
    PosteriorCard,
    Prediction,
)
from bmaml_client.clients import AsyncClient, Client
from bmaml_client.errors import (
    BadReply,
    ClientError,
    Conflict,
    DeadlinePassed,
    Diverged,
    FieldError,
    InvalidInput,
    InvalidRequest,
    NotFound,
    NotReady,
    PosteriorGone,
    Refused,
    ServiceFailed,
    TimedOut,
    TooBusy,
    TooLarge,
    Unauthorised,
    UnknownModel,
    UnknownPosterior,
    Unreachable,
)
from bmaml_client.model_info import Limits, ModelList, ModelSummary, VersionCard
from bmaml_client.photographs import scaled_down
from bmaml_client.policies import Action, Episode, PolicyPosterior, PolicyState
from bmaml_client.policy_weights import PolicyWeights
from bmaml_client.retries import Retries

__version__ = "0.1.0"

__all__ = [
    "Action",
    "Answer",
    "AnswerWarning",
    "AsyncClient",
    "BadReply",
    "Choice",
    "ClassPrediction",
    "Client",
    "ClientError",
    "Conflict",
    "DeadlinePassed",
    "Diverged",
    "Episode",
    "FieldError",
    "InvalidInput",
    "InvalidRequest",
    "Limits",
    "ModelList",
    "ModelSummary",
    "NotFound",
    "NotReady",
    "PolicyPosterior",
    "PolicyState",
    "PolicyWeights",
    "Posterior",
    "PosteriorCard",
    "PosteriorGone",
    "Prediction",
    "Refused",
    "Retries",
    "ServiceFailed",
    "TimedOut",
    "TooBusy",
    "TooLarge",
    "Unauthorised",
    "UnknownModel",
    "UnknownPosterior",
    "Unreachable",
    "VersionCard",
    "__version__",
    "scaled_down",
]
