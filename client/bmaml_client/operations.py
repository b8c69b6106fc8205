"""What is adapted to labelled rows, as talks: predictions, choices, kept posteriors."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bmaml_client.answers import Choice, ClassPrediction, ModelRef, Posterior, Prediction
from bmaml_client.errors import InvalidInput, PosteriorGone, UnknownPosterior
from bmaml_client.flow import Manner, Talk
from bmaml_client.inputs import Labels, Rows, Shown, joined, joined_labels, labels_of, named, rows_of
from bmaml_client.lookups import id_of, model, version
from bmaml_client.parsing import read

TTL_S = 600.0
"""How long a posterior is kept where the caller does not say."""


def adapt_predict(
    manner: Manner,
    model: str,
    x: Any = None,
    y: Any = None,
    query: Any = None,
    *,
    version: int | None = None,
    posterior: Posterior | str | None = None,
    quantiles: Sequence[float] = (),
    interval: float = 0.9,
    particles: bool = False,
    keep_s: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    deadline_ms: int | None = None,
    request_id: str | None = None,
) -> Talk[Prediction | ClassPrediction]:
    """Adapt a model to labelled rows and predict others.

    Rows are anything like an array `[row, column]`, data frames (columns by the model's names), arrays of
    pictures, or lists of PNG and JPEG bytes. Labels are numbers, strings or integers.

    Args:
        model: its name.
        x, y: labelled rows; both may be empty. With a posterior: rows to be added to those it has seen.
        query: the rows to predict.
        version: None is the newest.
        posterior: a kept one, in place of x and y.
        quantiles: levels inside (0, 1).
        interval: probability of the central interval.
        particles: also answer each hypothesis.
        keep_s: seconds to keep the adapted particles; the answer's `posterior` can be asked again.
        steps: inner steps; None is what the model was trained with.
        seed: of learners that draw.
        deadline_ms: how long the request may wait for the device.
        request_id: up to 64 letters, digits, `.`, `_` and `-`; the service's log has it.

    Raises:
        InvalidInput: what cannot be sent.
        ClientError: what came back; see `bmaml_client.errors`.
    """
    if query is None:
        raise InvalidInput("query is missing: which rows are to be predicted?")
    names = yield from _names(manner, model, version, x, query)
    said, shown = _support(model, x, y, names, version, posterior, keep_s, steps, seed, deadline_ms)
    said["query"] = {"x": rows_of(query, names, "query")}
    if len(quantiles):
        said["quantiles"] = [float(level) for level in quantiles]
    said |= {"interval": float(interval), "particles": bool(particles)}
    reply = yield from _adapting(manner, "/adapt-predict", said, posterior, shown, request_id)
    numbers = "mean" in reply["prediction"]
    flat = {**reply, **reply["prediction"]}
    return read(Prediction, flat) if numbers else read(ClassPrediction, flat)


def uncertainty(
    manner: Manner,
    model: str,
    x: Any = None,
    y: Any = None,
    pool: Any = None,
    *,
    ids: Sequence[str | int] | None = None,
    target: Any = None,
    acquisition: str | None = None,
    size: int = 1,
    strategy: str = "auto",
    exclude: Sequence[str | int] = (),
    version: int | None = None,
    posterior: Posterior | str | None = None,
    keep_s: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    deadline_ms: int | None = None,
    request_id: str | None = None,
) -> Talk[Choice]:
    """Adapt a model to labelled rows and say which rows of a pool to label next.

    Args:
        model, x, y, version, posterior, keep_s, steps, deadline_ms, request_id: as for `adapt_predict`.
        pool: rows to choose from.
        ids: the caller's names for them, unique; by default their places.
        target: rows where the predictions should get better.
        acquisition: by default `epig` with a target, else `epistemic_variance` (`entropy` of classes).
        size, strategy: how many rows, and how to keep them from saying the same thing.
        exclude: ids that must not be chosen.
        seed: decides ties and draws.
    """
    if pool is None:
        raise InvalidInput("pool is missing: which rows are there to choose from?")
    names = yield from _names(manner, model, version, x, pool, target)
    said, shown = _support(model, x, y, names, version, posterior, keep_s, steps, seed, deadline_ms)
    said["pool"] = {"x": rows_of(pool, names, "pool")}
    if ids is not None:
        said["pool"]["ids"] = [_plain(each) for each in ids]
    if target is not None:
        said["target"] = {"x": rows_of(target, names, "target")}
    if acquisition is not None:
        said["acquisition"] = acquisition
    said["batch"] = {"size": int(size), "strategy": strategy, "seed": int(seed)}
    said["exclude"] = [_plain(each) for each in exclude]
    reply = yield from _adapting(manner, "/uncertainty", said, posterior, shown, request_id)
    return read(Choice, reply)


def keep(
    manner: Manner,
    model: str,
    x: Any = None,
    y: Any = None,
    *,
    version: int | None = None,
    posterior: Posterior | str | None = None,
    keep_s: float = TTL_S,
    steps: int | None = None,
    seed: int = 0,
    deadline_ms: int | None = None,
    request_id: str | None = None,
) -> Talk[Posterior]:
    """Adapt a model to labelled rows and keep the particles in the service, without asking anything yet.

    The same rows have the same id and are adapted to once.
    """
    names = yield from _names(manner, model, version, x)
    said, shown = _support(model, x, y, names, version, posterior, keep_s, steps, seed, deadline_ms)
    reply = yield from _adapting(manner, "/posteriors", said, posterior, shown, request_id)
    kept: Posterior = reply["posterior"]
    return kept


def _names(manner: Manner, name: str, number: int | None, *values: Any) -> Talk[tuple[str, ...]]:
    """The model's inputs, where a data frame makes it matter."""
    if not any(named(each) for each in values):
        return ()
    if number is None:
        return (yield from model(manner, name)).inputs
    return tuple(column.name for column in (yield from version(manner, name, number)).inputs)


def _support(
    model: str,
    x: Any,
    y: Any,
    names: Sequence[str],
    version: int | None,
    posterior: Posterior | str | None,
    keep_s: float | None,
    steps: int | None,
    seed: int,
    deadline_ms: int | None,
) -> tuple[dict[str, Any], tuple[Rows, Labels] | None]:
    """The part of a request that all have, and the rows it shows."""
    if (x is None) != (y is None):
        raise InvalidInput("x and y go together: rows and their labels")
    if x is None and posterior is None:
        raise InvalidInput("show labelled rows (x and y, which may be empty) or name a posterior")
    said: dict[str, Any] = {"model": model}
    shown = None
    if x is not None:
        shown = rows_of(x, names, "x"), labels_of(y)
        if len(shown[0]) != len(shown[1]):
            raise InvalidInput(f"{len(shown[1])} labels for {len(shown[0])} rows of x")
        said["support"] = {"x": shown[0], "y": shown[1]}
    if posterior is not None:
        said["posterior"] = id_of(posterior)
    else:
        said["adapt"] = {"steps": steps, "seed": int(seed)}
    if version is not None:
        said["version"] = int(version)
    if keep_s is not None:
        said["keep"] = {"ttl_s": float(keep_s)}
    if deadline_ms is not None:
        said["deadline_ms"] = int(deadline_ms)
    return said, shown


def _adapting(
    manner: Manner,
    path: str,
    said: dict[str, Any],
    posterior: Posterior | str | None,
    shown: tuple[Rows, Labels] | None,
    request_id: str | None,
) -> Talk[dict[str, Any]]:
    """The reply, with a handle of its posterior; rows that the service has dropped are sent again, once."""
    before = posterior.shown if isinstance(posterior, Posterior) else None
    try:
        reply = yield from manner.ask("POST", path, said, request_id)
    except (PosteriorGone, UnknownPosterior):
        # Gone from the cache, or unknown because the service was started anew with another secret.
        if before is None:
            raise
        again = {"keep": {"ttl_s": before.ttl_s}, **said, **_rows(_all(before, shown))}
        again |= {"version": before.version, "adapt": {"steps": before.steps, "seed": before.seed}}
        del again["posterior"]
        reply = yield from manner.ask("POST", path, again, request_id)
    told = reply.get("posterior")
    if told is None:
        return dict(reply)
    reference = read(ModelRef, reply["model"])
    everything = None
    if posterior is None and shown is not None:
        adapt, keep = said["adapt"], said.get("keep", {"ttl_s": TTL_S})
        everything = Shown(*shown, reference.version, adapt["steps"], adapt["seed"], keep["ttl_s"])
    elif before is not None:
        everything = _all(before, shown)
    handle = read(Posterior, {**told, "model": reference, "shown": everything})
    return {**reply, "posterior": handle}


def _all(before: Shown, more: tuple[Rows, Labels] | None) -> Shown:
    if more is None:
        return before
    return replace(before, x=joined(before.x, more[0]), y=joined_labels(before.y, more[1]))


def _rows(shown: Shown) -> dict[str, Any]:
    return {"support": {"x": shown.x, "y": shown.y}}


def _plain(each: Any) -> str | int:
    """A string or an integer, where it came as numpy's."""
    plain: str | int = each.item() if hasattr(each, "item") else each
    return plain
