"""Policies: episodes that adapt one, and the actions that it takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bmaml_client.answers import Answer, Array, ModelRef, ParticleMoments, Posterior, Variance
from bmaml_client.errors import InvalidInput, PosteriorGone, UnknownPosterior
from bmaml_client.flow import Flow, Requester
from bmaml_client.inputs import to_rows
from bmaml_client.lookups import posterior_id
from bmaml_client.parsing import parse, part
from bmaml_client.sessions import session_of

DEFAULT_TTL_S = 600.0
"""Seconds that an adapted policy is kept by default."""


ARRAYS = ("observations", "actions", "rewards")
"""The fields of an episode with a number or row for each step."""


@dataclass(frozen=True, eq=False)
class Episode:
    """One episode of one particle: for each step the observation, the action drawn at it, and its reward.

    Attributes:
        round: 0 for episodes of the meta-learned start, then one more after each adaptation.
        actions: as the service drew them (`Action.action`), never the clipped commands.
        ended: whether the task ended the episode; for the record.
    """

    round: int
    particle: int
    observations: Any
    actions: Any
    rewards: Any
    ended: bool = False


@dataclass(frozen=True, eq=False)
class PolicyState:
    """The state of a policy in a task; arrays are `[particle]`.

    Attributes:
        rounds: of episodes so far, the number of the next round.
        episodes: of each particle so far.
        returns: mean return of a particle's latest round with episodes; 0 before any.
        weights: those of Thompson's choice.
        next_particle: the particle to act next where episodes are few.
    """

    rounds: int
    episodes: Array
    returns: Array
    weights: Array
    next_particle: int


@dataclass(frozen=True)
class PolicyPosterior(Posterior):
    """An adapted policy that the service keeps.

    The client sends its episodes again, once, where the service has dropped it.

    Attributes:
        rows: steps that it has adapted to.
        state: returns and weights of its particles.
        episodes: all episodes; None where this client did not send all of them.
    """

    state: PolicyState | None = field(default=None, compare=False)
    episodes: tuple[Episode, ...] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, eq=False)
class Action(Answer):
    """The action at each observation, all by one particle, and the belief about it.

    Attributes:
        action: as drawn, to be posted back in an `Episode`.
        command: clipped to the range of training, to be carried out.
        particle: the particle that acts; None for `mean`.
        mean, std, variance: of all particles together.
        particles: each particle's own; None unless asked for.
        state: returns and weights of the particles.
    """

    action: Array
    command: Array
    particle: int | None
    mean: Array
    std: Array
    variance: Variance
    particles: ParticleMoments | None
    state: PolicyState


def adapt_policy(
    requester: Requester,
    model: str,
    episodes: Sequence[Episode] = (),
    *,
    version: int | None = None,
    posterior: PolicyPosterior | str | None = None,
    keep_s: float = DEFAULT_TTL_S,
    deadline_ms: int | None = None,
    request_id: str | None = None,
) -> Flow[PolicyPosterior]:
    """Adapt a policy to episodes, and keep it in the service.

    Args:
        model: its name.
        episodes: of round 0 on; with a posterior those of the next rounds.
        version: None is the newest.
        posterior: the policy that acted the first of these rounds.
        keep_s: seconds to keep it.
        deadline_ms: milliseconds that the request may wait for the device.
        request_id: up to 64 letters, digits, `.`, `_` and `-`, for the service's log.

    Raises:
        InvalidInput: an argument cannot be sent.
        ClientError: the request failed; see `bmaml_client.errors`.
    """
    body = _body(model, version, posterior, deadline_ms) | {"keep": {"ttl_s": float(keep_s)}}
    body["support"] = {"episodes": [_plain(each) for each in episodes]}
    known: tuple[Episode, ...] | None = ()
    if posterior is not None:
        known = posterior.episodes if isinstance(posterior, PolicyPosterior) else None
    whole = None if known is None else (*known, *map(_owned, episodes))
    reply = yield from _post(requester, "/posteriors", body, posterior, whole, request_id)
    fields = {
        "model": parse(ModelRef, part(reply, "model")),
        "warnings": part(part(reply, "diagnostics"), "warnings"),
        "state": reply["diagnostics"],
        "session": requester.sessions.of(part(part(reply, "posterior"), "id")),
    }
    kept = parse(PolicyPosterior, {**reply["posterior"], **fields, "episodes": None})
    object.__setattr__(kept, "episodes", whole)  # as they are: the parser reads replies
    return kept


def act(
    requester: Requester,
    model: str,
    observations: Any,
    *,
    how: str = "best",
    particle: int | None = None,
    seed: int = 0,
    version: int | None = None,
    posterior: PolicyPosterior | str | None = None,
    particles: bool = False,
    deadline_ms: int | None = None,
    request_id: str | None = None,
) -> Flow[Action]:
    """The policy's action at each observation.

    Args:
        model: its name.
        observations: rows, such as those of episodes that run side by side.
        how: `best`, `thompson`, `next` or `mean`.
        particle: the particle that acts, whatever `how` says.
        seed: of the draw; take another one for each step.
        version: None is the newest.
        posterior: the adapted policy; None is the meta-learned start.
        particles: whether to return the moments of each particle.
        deadline_ms, request_id: as for `adapt_policy`.

    Raises:
        InvalidInput: an argument cannot be sent.
        ClientError: the request failed; see `bmaml_client.errors`.
    """
    body = _body(model, version, posterior, deadline_ms)
    if posterior is None:
        body["support"] = {"episodes": []}
    chosen = {} if particle is None else {"particle": int(particle)}
    body["act"] = {"how": how, "seed": int(seed), **chosen}
    body |= {"query": {"x": to_rows(observations, (), "observations")}, "particles": bool(particles)}
    handle = posterior if isinstance(posterior, PolicyPosterior) else None
    whole = None if handle is None else handle.episodes
    reply = yield from _post(requester, "/adapt-predict", body, posterior, whole, request_id)
    found = part(reply, "prediction")
    fields = {**reply, **found, "state": part(reply, "diagnostics"), "posterior": handle}
    return parse(Action, fields)


def _body(
    model: str, version: int | None, posterior: PolicyPosterior | str | None, deadline_ms: int | None
) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model}
    if version is not None:
        body["version"] = int(version)
    if posterior is not None:
        body["posterior"] = posterior_id(posterior)
    if deadline_ms is not None:
        body["deadline_ms"] = int(deadline_ms)
    return body


def _post(
    requester: Requester,
    path: str,
    body: dict[str, Any],
    posterior: PolicyPosterior | str | None,
    whole: Sequence[Episode] | None,
    request_id: str | None,
) -> Flow[dict[str, Any]]:
    """The decoded reply; a policy that the service has dropped is adapted again, to all its episodes."""
    session = None
    if posterior is not None:
        session = requester.sessions.of(posterior)
    elif path == "/posteriors":
        session = session_of(body["model"], body["support"])
    try:
        reply = yield from requester.request("POST", path, body, request_id, session)
    except (PosteriorGone, UnknownPosterior):
        if not isinstance(posterior, PolicyPosterior) or whole is None:
            raise
        again = {**body, "support": {"episodes": [_plain(each) for each in whole]}}
        again |= {"version": posterior.model.version, "keep": body.get("keep", {"ttl_s": DEFAULT_TTL_S})}
        del again["posterior"]
        reply = yield from requester.request("POST", path, again, request_id, session)
    part(reply, "model")
    if reply.get("posterior") is not None:
        requester.sessions.remember(part(reply["posterior"], "id"), session)
    return dict(reply)


def _owned(episode: Episode) -> Episode:
    """The episode, in arrays that nobody else can change: it may be sent again later."""
    own: dict[str, Any] = {name: np.array(getattr(episode, name), np.float64) for name in ARRAYS}
    return replace(episode, **own)


def _plain(episode: Episode) -> Mapping[str, Any]:
    """The episode as JSON."""
    try:
        rows = {name: np.asarray(getattr(episode, name), np.float64).tolist() for name in ARRAYS}
        places = {"round": int(episode.round), "particle": int(episode.particle)}
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"an episode cannot be read as numbers: {error}") from None
    return places | rows | {"ended": bool(episode.ended)}
