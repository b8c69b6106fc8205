"""The service from Python: arrays and data frames in, typed answers and errors in sentences out.

Needs httpx and numpy alone. `service.client.estimators` has scikit-learn's interface.
"""

from service.client.answers import (
    Answer,
    Choice,
    ClassPrediction,
    Posterior,
    PosteriorCard,
    Prediction,
)
from service.client.cards import Limits, ModelList, ModelSummary, VersionCard
from service.client.clients import AsyncClient, Client
from service.client.errors import (
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
from service.client.retries import Retries

__all__ = [
    "Answer",
    "AsyncClient",
    "BadReply",
    "Choice",
    "ClassPrediction",
    "Client",
    "ClientError",
    "Conflict",
    "DeadlinePassed",
    "Diverged",
    "FieldError",
    "InvalidInput",
    "InvalidRequest",
    "Limits",
    "ModelList",
    "ModelSummary",
    "NotFound",
    "NotReady",
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
]
