"""Flows that adapt a model to labelled rows: predictions, choices, kept posteriors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bmaml_client.answers import Choice, ClassPrediction, ModelRef, Posterior, Prediction
from bmaml_client.errors import InvalidInput, PosteriorGone, UnknownPosterior
from bmaml_client.flow import Flow, Requester
from bmaml_client.inputs import (
    Labels,
    Rows,
    Support,
    column_names,
    concatenate_labels,
    concatenate_rows,
    to_labels,
    to_rows,
)
from bmaml_client.lookups import model, posterior_id, version
from bmaml_client.parsing import parse, part
from bmaml_client.sessions import session_of

DEFAULT_TTL_S = 600.0
"""Seconds that the service keeps a posterior by default."""


def adapt_predict(
    requester: Requester,
    model: str,
    x: Any = None,
    y: Any = None,
    query: Any = None,
    *,
    query_y: Any = None,
    version: int | None = None,
    posterior: Posterior | str | None = None,
    quantiles: Sequence[float] = (),
    interval: float | Mapping[str, Any] = 0.9,
    particles: bool = False,
    keep_s: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    deadline_ms: int | None = None,
    request_id: str | None = None,
) -> Flow[Prediction | ClassPrediction]:
    """Adapt a model to labelled rows and predict the query rows.

    Rows are array-likes `[row, column]`, data frames (matched by column names), arrays of images, or
    lists of PNG and JPEG bytes. Labels are numbers, strings or integers.

    Args:
        model: its name.
        x, y: labelled rows; both may be empty. With a posterior they are added to its rows.
        query: the rows to predict.
        query_y: a target for each of them, whose log density the answer then has.
        version: None is the newest.
        posterior: a kept one, in place of x and y.
        quantiles: levels in (0, 1).
        interval: probability of the central interval; or `{"level": 0.9, "method": "conformal"}`, whose
            coverage was counted on validation tasks.
        particles: whether to return the predictions of each particle.
        keep_s: seconds to keep the adapted particles, which the answer's `posterior` then names.
        steps: inner steps; None is the number that the model was trained with.
        seed: for learners that draw.
        deadline_ms: milliseconds that the request may wait for the device.
        request_id: up to 64 letters, digits, `.`, `_` and `-`, for the service's log.

    Raises:
        InvalidInput: an argument cannot be sent.
        ClientError: the request failed; see `bmaml_client.errors`.
    """
    if query is None:
        raise InvalidInput("query is missing: which rows are to be predicted?")
    names = yield from _input_names(requester, model, version, x, query)
    body, rows = _adaptation(model, x, y, names, version, posterior, keep_s, steps, seed, deadline_ms)
    body["query"] = {"x": to_rows(query, names, "query")}
    if query_y is not None:
        targets, asked = to_labels(query_y, "query_y"), len(body["query"]["x"])
        if len(targets) != asked:
            raise InvalidInput(f"{len(targets)} targets in query_y for {asked} rows of query")
        body["query"]["y"], body["log_density"] = targets, True
    if len(quantiles):
        body["quantiles"] = [float(level) for level in quantiles]
    body |= {"interval": _interval(interval), "particles": bool(particles)}
    reply = yield from _post(requester, "/adapt-predict", body, posterior, rows, request_id)
    fields = {**reply, **part(reply, "prediction")}
    return parse(Prediction, fields) if "mean" in fields else parse(ClassPrediction, fields)


def uncertainty(
    requester: Requester,
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
) -> Flow[Choice]:
    """Adapt a model to labelled rows and select the rows of a pool to label next.

    Args:
        model, x, y, version, posterior, keep_s, steps, deadline_ms, request_id: as for `adapt_predict`.
        pool: rows to select from.
        ids: the caller's ids of the pool's rows, unique; by default their indices.
        target: rows on which the predictions should improve; `epig` of numbers takes the pool by default.
        acquisition: by default `epig`; for classes without a target `entropy`.
        size: rows to select.
        strategy: how a batch avoids redundant rows.
        exclude: ids that are not selected.
        seed: for ties, and for learners that draw.

    Raises:
        InvalidInput: an argument cannot be sent.
        ClientError: the request failed; see `bmaml_client.errors`.
    """
    if pool is None:
        raise InvalidInput("pool is missing: which rows are there to choose from?")
    names = yield from _input_names(requester, model, version, x, pool, target)
    body, rows = _adaptation(model, x, y, names, version, posterior, keep_s, steps, seed, deadline_ms)
    body["pool"] = {"x": to_rows(pool, names, "pool")}
    if ids is not None:
        body["pool"]["ids"] = [_plain(each) for each in ids]
    if target is not None:
        body["target"] = {"x": to_rows(target, names, "target")}
    if acquisition is not None:
        body["acquisition"] = acquisition
    body["batch"] = {"size": int(size), "strategy": strategy, "seed": int(seed)}
    body["exclude"] = [_plain(each) for each in exclude]
    return parse(Choice, (yield from _post(requester, "/uncertainty", body, posterior, rows, request_id)))


def keep(
    requester: Requester,
    model: str,
    x: Any = None,
    y: Any = None,
    *,
    version: int | None = None,
    posterior: Posterior | str | None = None,
    keep_s: float = DEFAULT_TTL_S,
    steps: int | None = None,
    seed: int = 0,
    deadline_ms: int | None = None,
    request_id: str | None = None,
) -> Flow[Posterior]:
    """Adapt a model to labelled rows and keep the particles in the service, without a prediction.

    The same rows have the same id, and the service adapts to them once. The arguments are those of
    `adapt_predict`.

    Raises:
        InvalidInput: an argument cannot be sent.
        ClientError: the request failed; see `bmaml_client.errors`.
    """
    names = yield from _input_names(requester, model, version, x)
    body, rows = _adaptation(model, x, y, names, version, posterior, keep_s, steps, seed, deadline_ms)
    reply = yield from _post(requester, "/posteriors", body, posterior, rows, request_id)
    kept: Posterior = part(reply, "posterior")
    return kept


def _input_names(requester: Requester, name: str, number: int | None, *values: Any) -> Flow[tuple[str, ...]]:
    """The model's inputs, which data frames are matched to; empty where no value is a data frame."""
    if not any(column_names(each) for each in values):
        return ()
    if number is None:
        return (yield from model(requester, name)).inputs
    return tuple(column.name for column in (yield from version(requester, name, number)).inputs)


def _adaptation(
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
    """The fields that all requests share, and the labelled rows among them."""
    if (x is None) != (y is None):
        raise InvalidInput("x and y go together: rows and their labels")
    if x is None and posterior is None:
        raise InvalidInput("show labelled rows (x and y, which may be empty) or name a posterior")
    body: dict[str, Any] = {"model": model}
    rows = None
    if x is not None:
        rows = _owned(to_rows(x, names, "x")), _owned(to_labels(y))
        if len(rows[0]) != len(rows[1]):
            raise InvalidInput(f"{len(rows[1])} labels for {len(rows[0])} rows of x")
        body["support"] = {"x": rows[0], "y": rows[1]}
    if posterior is not None:
        body["posterior"] = posterior_id(posterior)
        if steps is not None:  # the service refuses others than the posterior's
            body["adapt"] = {"steps": steps}
    else:
        body["adapt"] = {"steps": steps, "seed": int(seed)}
    if version is not None:
        body["version"] = int(version)
    if keep_s is not None:
        body["keep"] = {"ttl_s": float(keep_s)}
    if deadline_ms is not None:
        body["deadline_ms"] = int(deadline_ms)
    return body, rows


def _owned(rows: Any) -> Any:
    """Rows or labels that nobody else can change: they may be sent again later."""
    return rows.copy() if isinstance(rows, np.ndarray) else rows


def _post(
    requester: Requester,
    path: str,
    body: dict[str, Any],
    posterior: Posterior | str | None,
    rows: tuple[Rows, Labels] | None,
    request_id: str | None,
) -> Flow[dict[str, Any]]:
    """The decoded reply, with a handle for its posterior.

    A request whose posterior the service has dropped is sent once more, with the posterior's rows.
    """
    earlier = posterior.support if isinstance(posterior, Posterior) else None
    session = None
    if posterior is not None:
        session = requester.sessions.of(posterior)
    elif rows is not None and (len(rows[0]) or path == "/posteriors" or "keep" in body):
        session = session_of(body["model"], body["support"])
    try:
        reply = yield from requester.request("POST", path, body, request_id, session)
    except (PosteriorGone, UnknownPosterior):
        # Gone from the cache, or unknown because a restarted service has another secret.
        if earlier is None:
            raise
        whole = _extended(earlier, rows)
        again = {"keep": {"ttl_s": earlier.ttl_s}, **body, "support": {"x": whole.x, "y": whole.y}}
        again |= {"version": earlier.version, "adapt": {"steps": earlier.steps, "seed": earlier.seed}}
        del again["posterior"]
        reply = yield from requester.request("POST", path, again, request_id, session)
    reference = parse(ModelRef, part(reply, "model"))
    if reply.get("posterior") is None:
        return dict(reply)
    support = None
    if posterior is None and rows is not None:
        adapt, ttl_s = body["adapt"], body.get("keep", {"ttl_s": DEFAULT_TTL_S})["ttl_s"]
        support = Support(*rows, reference.version, adapt["steps"], adapt["seed"], ttl_s)
    elif earlier is not None:
        support = _extended(earlier, rows)
    requester.sessions.remember(part(reply["posterior"], "id"), session)
    fields = {"model": reference, "support": support, "session": session}
    fields["warnings"] = part(part(reply, "diagnostics"), "warnings")
    handle = parse(Posterior, {**reply["posterior"], **fields})
    return {**reply, "posterior": handle}


def _extended(support: Support, rows: tuple[Rows, Labels] | None) -> Support:
    """The support set with these rows added."""
    if rows is None:
        return support
    x, y = rows
    return replace(support, x=concatenate_rows(support.x, x), y=concatenate_labels(support.y, y))


def _interval(interval: float | Mapping[str, Any]) -> float | dict[str, Any]:
    """The interval as JSON: its level, or an object."""
    if not isinstance(interval, Mapping):
        return float(interval)
    return {key: float(each) if key == "level" else each for key, each in interval.items()}


def _plain(each: Any) -> str | int:
    """A Python string or integer, converted from numpy's."""
    plain: str | int = each.item() if hasattr(each, "item") else each
    return plain
