"""The question that a request asks a policy: the action at every query row."""

from model_store import Model
from service.errors import invalid_at
from service.job import ActionSpec
from service.schemas.policies import Act
from service.schemas.requests import AdaptPredictRequest

NOT_FOR_POLICIES = {
    "quantiles": "a policy answers moments and particles, not quantiles",
    "interval": "a policy answers moments and particles, not intervals",
    "log_density": "a policy scores no targets",
}
"""Fields of a prediction that a policy does not answer, and the reason."""


def action_spec(request: AdaptPredictRequest, model: Model) -> ActionSpec | None:
    """The question to a policy; None for other models.

    Raises:
        RequestError: 422 for fields that are not for this kind of model, and for a particle that it lacks.
    """
    if model.manifest.kind != "policy":
        if request.act is not None:
            raise invalid_at("/act", f"policies act; this model is a {model.manifest.kind}")
        return None
    for name, reason in NOT_FOR_POLICIES.items():
        if name in request.model_fields_set:
            raise invalid_at(f"/{name}", reason)
    if request.query.y is not None:
        raise invalid_at("/query/y", NOT_FOR_POLICIES["log_density"])
    act = request.act or Act()
    particles = model.learner.particles
    if act.particle is not None and act.particle >= particles:
        raise invalid_at("/act/particle", f"the particles are 0 to {particles - 1}")
    return ActionSpec(act, request.particles)
