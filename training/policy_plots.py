"""Plots of a published policy: returns by round, paths of the particles in the plane, training history."""

from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt

from bmaml.learners import Policy
from model_store.model import Model
from training.families.family import HELD_OUT_SEED
from training.families.world_tasks import ROUNDS, WorldTasks
from training.families.worlds import Plane, rollout
from training.plots import LINE, PARTICLE, history, saved

DRAWN_TASKS, DRAWN_EPISODES = 3, 3
"""Held-out tasks whose paths are drawn, and episodes of each particle."""


def draw(model: Model, policy: Policy, tasks: WorldTasks, folder: Path) -> list[Path]:
    """Write the plots of a version into a folder and return their paths.

    `paths.png` needs a world whose observation is a place in the plane.
    """
    drawn = [_returns(model, policy, tasks, folder / "returns.png")]
    if isinstance(tasks.world, Plane):
        drawn.append(_paths(model, policy, tasks, folder / "paths.png"))
    if model.manifest.history:
        drawn.append(history(model, folder / "history.png", "minus the validation return"))
    return drawn


def _returns(model: Model, policy: Policy, tasks: WorldTasks, path: Path) -> Path:
    found = tasks.held_out_returns(policy, model.learned)
    figure, axis = plt.subplots(figsize=(5, 3.6))
    rounds = range(ROUNDS + 1)
    axis.plot(rounds, found.mean, color=PARTICLE, marker="o", label="all particles")
    axis.plot(rounds, found.chosen, color=LINE, marker="o", label="chosen particle")
    axis.set(xlabel="rounds of episodes", ylabel="return", xticks=list(rounds))
    axis.legend(frameon=False)
    return saved(figure, path)


def _paths(model: Model, policy: Policy, tasks: WorldTasks, path: Path) -> Path:
    """Every particle's paths before and after each round; the best particle's are darker."""
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    parameters = tasks.world.tasks(DRAWN_TASKS, generator)
    figure, axes = plt.subplots(
        DRAWN_TASKS, ROUNDS + 1, figsize=(3 * (ROUNDS + 1), 3 * DRAWN_TASKS), sharex=True, sharey=True
    )
    posterior = policy.prior(model.learned)
    for after in range(ROUNDS + 1):
        episodes = rollout(
            tasks.world, policy, posterior.particles, parameters, tasks.config.episodes, generator
        ).episodes
        for task in range(DRAWN_TASKS):
            _panel(axes[task, after], episodes, task, parameters[task])
            axes[0, after].set_title(f"after {after} rounds")
        with torch.no_grad():
            posterior = policy.adapt_rounds(model.learned, posterior, [episodes])
    return saved(figure, path)


def _panel(axis: Any, episodes: Any, task: int, goal: Any) -> None:
    best = int(episodes.returns()[task].argmax())
    for particle in range(episodes.mask.shape[1]):
        chosen = particle == best
        for episode in range(min(DRAWN_EPISODES, episodes.mask.shape[2])):
            steps = episodes.observations[task, particle, episode][episodes.mask[task, particle, episode]]
            axis.plot(
                steps[:, 0],
                steps[:, 1],
                color=LINE if chosen else PARTICLE,
                lw=1.4 if chosen else 0.7,
                alpha=0.9 if chosen else 0.4,
                zorder=3 if chosen else 2,
            )
    axis.scatter(*goal[:2], marker="*", s=90, color="black", zorder=5)
    axis.set_aspect("equal")
