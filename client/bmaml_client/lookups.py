"""What can be looked up or dropped, as talks: models, bounds, readiness, kept posteriors."""

from dataclasses import replace
from urllib.parse import quote

from bmaml_client.answers import Posterior, PosteriorCard
from bmaml_client.errors import NotReady, Unreachable
from bmaml_client.flow import Manner, Talk
from bmaml_client.model_info import Limits, ModelList, ModelSummary, VersionCard
from bmaml_client.parsing import read
from bmaml_client.retries import Retries


def posterior(
    manner: Manner, posterior: Posterior | str, *, request_id: str | None = None
) -> Talk[PosteriorCard]:
    """What the service says of a kept posterior."""
    said = yield from manner.ask("GET", f"/posteriors/{_segment(id_of(posterior))}", request_id=request_id)
    return read(PosteriorCard, said)


def forget(manner: Manner, posterior: Posterior | str, *, request_id: str | None = None) -> Talk[None]:
    """Have the service forget a posterior; twice is no failure."""
    yield from manner.ask("DELETE", f"/posteriors/{_segment(id_of(posterior))}", request_id=request_id)


def models(manner: Manner, *, request_id: str | None = None) -> Talk[ModelList]:
    """Every model by name."""
    return read(ModelList, (yield from manner.ask("GET", "/models", request_id=request_id)))


def model(manner: Manner, name: str, *, request_id: str | None = None) -> Talk[ModelSummary]:
    """One model and its versions."""
    said = yield from manner.ask("GET", f"/models/{_segment(name)}", request_id=request_id)
    return read(ModelSummary, said)


def version(manner: Manner, name: str, version: int, *, request_id: str | None = None) -> Talk[VersionCard]:
    """The model card of one version."""
    path = f"/models/{_segment(name)}/versions/{int(version)}"
    return read(VersionCard, (yield from manner.ask("GET", path, request_id=request_id)))


def limits(manner: Manner, *, request_id: str | None = None) -> Talk[Limits]:
    """Every bound the service enforces."""
    return read(Limits, (yield from manner.ask("GET", "/limits", request_id=request_id)))


def ready(manner: Manner, *, request_id: str | None = None) -> Talk[bool]:
    """Whether the service would answer now; it is asked once."""
    once = replace(manner, retries=Retries(count=0))
    try:
        yield from once.ask("GET", "/readyz", request_id=request_id)
    except (NotReady, Unreachable):
        return False
    return True


def id_of(posterior: Posterior | str) -> str:
    """The id of a posterior, or of one that is named by it."""
    return posterior.id if isinstance(posterior, Posterior) else posterior


def _segment(name: str) -> str:
    return quote(str(name), safe="")
