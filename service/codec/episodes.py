"""The episodes of a request as support rows: one row for each step, after those of the kept posterior.

A row's input is (observation, round, particle, episode, time), its target (action, reward); see
`bmaml.episodes`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bmaml.episodes import PLACES
from model_store import Model
from service.codec.budget import Budget
from service.codec.inputs import InputRows, check_precision, label_values, number_rows
from service.codec.support_set import SupportSet
from service.codec.warnings import observation_warnings
from service.engine.posterior_cache import Entry
from service.errors import invalid_at
from service.job import Array, PostedSupport
from service.schemas.policies import MAX_EPISODES, MAX_ROUNDS, Episode, EpisodeSupport
from service.schemas.requests import Support

MAX_CELLS_PER_STEP = 20
"""Cells of particle × episode × time, padding included, for each step that the service takes."""


def episode_set(
    posted: Support | EpisodeSupport | None, entry: Entry | None, model: Model, budget: Budget
) -> SupportSet:
    """The steps of a request's episodes, after those of a kept posterior if it names one.

    Raises:
        RequestError: 422 for labelled rows, for episodes whose parts differ in length or that are not finite,
            for a particle that does not exist, for rounds that are missing or out of order, and for more
            steps than the limit.
    """
    observations, actions = len(model.manifest.inputs), len(model.manifest.outputs)
    raw: Array = np.zeros((0, observations + PLACES + actions + 1))
    known = 0
    if entry is not None:
        raw = entry.job.posted.x.astype(np.float64, copy=False)
        known = _rounds(raw, observations)
    if posted is not None:
        if isinstance(posted, Support):
            raise invalid_at("/support", "a policy adapts to episodes, not to labelled rows")
        _check_rounds(posted.episodes, known)
        new = _steps(posted.episodes, model, budget.settings.max_episode_steps - len(raw))
        _check_cells(new[:, observations : observations + PLACES], model, budget)
        raw = np.concatenate([raw, new])
    places = raw[:, observations : observations + PLACES]
    targets = raw[:, observations + PLACES :]
    seen = model.standardised_inputs(raw[:, :observations])
    moves = model.standardised_targets(targets[:, :-1])
    with np.errstate(over="ignore"):
        x = np.concatenate([seen, places], -1).astype(np.float32)
        y = np.concatenate([moves, targets[:, -1:]], -1).astype(np.float32)
    check_precision(x, "/support/episodes")
    check_precision(y, "/support/episodes")
    return SupportSet(InputRows(raw, x), y, np.zeros((0, actions)), (), PostedSupport(raw, ()))


def policy_warnings(model: Model, support: SupportSet, rows: Mapping[str, InputRows]) -> tuple[str, ...]:
    """Warnings about the episodes of a request, and about observations far from those of training."""
    raw, observations = support.posted.x, len(model.manifest.inputs)
    warnings = []
    if not len(raw):
        warnings.append("there are no episodes: this is the meta-learned start, before any adaptation")
    actions = raw[:, observations + PLACES : -1]
    low, high = model.output_range
    if at_end := int(((actions == low) | (actions == high)).any(-1).sum()):
        warnings.append(
            f"{at_end} of {len(raw)} actions lie exactly at an end of their range, as clipped ones do: post "
            "the action of the answer, not its command; the log probabilities of clipped actions are wrong"
        )
    if not model.learner.has_epistemic:
        warnings.append("this model is a single point: its epistemic variance is zero, whatever it has seen")
    for part, own in rows.items():
        warnings += observation_warnings(model, own.raw, f"{part} rows")
    warnings += observation_warnings(model, raw[:, :observations], "observations")
    return tuple(warnings)


def _rounds(raw: Array, observations: int) -> int:
    return int(raw[:, observations].max()) + 1 if len(raw) else 0


def _check_rounds(episodes: Sequence[Episode], known: int) -> None:
    """Rounds follow each other, the first of them those of the posterior; none has too many episodes."""
    if len(episodes) > MAX_EPISODES:
        detail = f"{len(episodes)} episodes; this service takes at most {MAX_EPISODES}"
        raise invalid_at("/support/episodes", detail)
    latest = known - 1
    for index, episode in enumerate(episodes):
        pointer = f"/support/episodes/{index}/round"
        if episode.round < known:
            raise invalid_at(
                pointer, f"the posterior has adapted to the rounds up to {known - 1} already; {known} is next"
            )
        if episode.round < latest:
            raise invalid_at(pointer, f"rounds are out of order: an episode before it is of round {latest}")
        if episode.round > latest + 1:
            raise invalid_at(
                pointer,
                f"round {latest + 1} is missing: the particles that act a round are those that the rounds "
                "before it left",
            )
        latest = episode.round
    if latest >= MAX_ROUNDS:
        raise invalid_at("/support/episodes", f"a task has at most {MAX_ROUNDS} rounds")


def _steps(episodes: Sequence[Episode], model: Model, most: int) -> Array:
    """A row (observation, round, particle, episode, time, action, reward) for each step."""
    inputs, outputs = len(model.manifest.inputs), len(model.manifest.outputs)
    rows = [np.zeros((0, inputs + PLACES + outputs + 1))]
    counts: Counter[tuple[int, int]] = Counter()
    for index, episode in enumerate(episodes):
        pointer = f"/support/episodes/{index}"
        if episode.particle >= model.learner.particles:
            detail = f"there is no such particle: they are 0 to {model.learner.particles - 1}"
            raise invalid_at(f"{pointer}/particle", detail)
        observations = _step_rows(episode.observations, inputs, f"{pointer}/observations", most)
        actions = _step_rows(episode.actions, outputs, f"{pointer}/actions", most)
        rewards = _step_rows(episode.rewards, 1, f"{pointer}/rewards", most)
        steps = len(observations)
        if not steps == len(actions) == len(rewards):
            raise invalid_at(
                pointer,
                f"{steps} observations, {len(actions)} actions and {len(rewards)} rewards: a step has one of "
                "each",
            )
        most -= steps
        place = episode.round, episode.particle
        places = np.tile(np.array([*place, counts[place], 0], np.float64), (steps, 1))
        places[:, -1] = np.arange(steps)
        counts[place] += 1
        rows.append(np.concatenate([observations, places, actions, rewards], -1))
    return np.concatenate(rows)


def _step_rows(values: Any, columns: int, pointer: str, most: int) -> Array:
    """Numbers `[step, column]`; a plain list of numbers has one column."""
    if columns == 1:
        listed = label_values(values, pointer)
        values = [each if isinstance(each, list) else [each] for each in listed]
    elif isinstance(values, list) and values and not isinstance(values[0], list):
        raise invalid_at(pointer, f"a row of {columns} numbers is wanted for each step")
    try:
        return number_rows(values, columns, pointer, max(most, 0), min_rows=1)
    except TypeError:  # rows beside numbers
        raise invalid_at(pointer, f"a row of {columns} numbers is wanted for each step") from None


def _check_cells(places: Array, model: Model, budget: Budget) -> None:
    """Refuse rounds whose padding to equal numbers and lengths of episodes is out of proportion."""
    cells = 0
    for each in np.unique(places[:, 0]):
        own = places[places[:, 0] == each]
        cells += model.learner.particles * int(own[:, 2].max() + 1) * int(own[:, 3].max() + 1)
    most = MAX_CELLS_PER_STEP * budget.settings.max_episode_steps
    if cells > most:
        raise invalid_at(
            "/support/episodes",
            f"particles × most episodes × longest episode is {cells}, of {most} at most: send episodes of "
            "more equal lengths, or fewer of them",
        )
