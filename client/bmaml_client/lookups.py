"""Flows that look something up or delete it: models, limits, readiness, kept posteriors."""

from dataclasses import replace
from urllib.parse import quote

from bmaml_client.answers import Posterior, PosteriorCard
from bmaml_client.errors import NotReady, Unreachable
from bmaml_client.flow import Flow, Requester
from bmaml_client.model_info import Limits, ModelList, ModelSummary, VersionCard
from bmaml_client.parsing import parse
from bmaml_client.retries import Retries


def posterior(
    requester: Requester, posterior: Posterior | str, *, request_id: str | None = None
) -> Flow[PosteriorCard]:
    """Describe a kept posterior.

    Raises:
        PosteriorGone, UnknownPosterior: the service does not have it.
        ClientError: the request failed; see `bmaml_client.errors`.
    """
    path = posterior_path(posterior)
    session = requester.sessions.of(posterior)
    reply = yield from requester.request("GET", path, request_id=request_id, session=session)
    return parse(PosteriorCard, reply)


def forget(requester: Requester, posterior: Posterior | str, *, request_id: str | None = None) -> Flow[None]:
    """Delete a kept posterior; deleting it again is no error.

    Raises:
        ClientError: the request failed; see `bmaml_client.errors`.
    """
    path = posterior_path(posterior)
    session = requester.sessions.of(posterior)
    yield from requester.request("DELETE", path, request_id=request_id, session=session)


def models(requester: Requester, *, request_id: str | None = None) -> Flow[ModelList]:
    """List every model by name.

    Raises:
        ClientError: the request failed; see `bmaml_client.errors`.
    """
    return parse(ModelList, (yield from requester.request("GET", "/models", request_id=request_id)))


def model(requester: Requester, name: str, *, request_id: str | None = None) -> Flow[ModelSummary]:
    """Describe a model and list its versions.

    Raises:
        UnknownModel: the service has no model of this name.
        ClientError: the request failed; see `bmaml_client.errors`.
    """
    path = f"/models/{_segment(name)}"
    return parse(ModelSummary, (yield from requester.request("GET", path, request_id=request_id)))


def version(
    requester: Requester, name: str, version: int, *, request_id: str | None = None
) -> Flow[VersionCard]:
    """Return the model card of one version.

    Raises:
        UnknownModel: the service has no such model or version.
        ClientError: the request failed; see `bmaml_client.errors`.
    """
    path = f"/models/{_segment(name)}/versions/{int(version)}"
    return parse(VersionCard, (yield from requester.request("GET", path, request_id=request_id)))


def limits(requester: Requester, *, request_id: str | None = None) -> Flow[Limits]:
    """Return the limits that the service enforces.

    Raises:
        ClientError: the request failed; see `bmaml_client.errors`.
    """
    return parse(Limits, (yield from requester.request("GET", "/limits", request_id=request_id)))


def ready(requester: Requester, *, request_id: str | None = None) -> Flow[bool]:
    """Return whether the service is ready to answer, without retries.

    Raises:
        ClientError: the request failed otherwise than by 503 or an unreachable service.
    """
    once = replace(requester, retries=Retries(count=0))
    try:
        yield from once.request("GET", "/readyz", request_id=request_id)
    except (NotReady, Unreachable):
        return False
    return True


def posterior_id(posterior: Posterior | str) -> str:
    """The id of a posterior, given by its handle or by the id itself."""
    return posterior.id if isinstance(posterior, Posterior) else posterior


def posterior_path(posterior: Posterior | str) -> str:
    """The path of a posterior in the service."""
    return f"/posteriors/{_segment(posterior_id(posterior))}"


def _segment(name: str) -> str:
    return quote(str(name), safe="")
