"""Random policies, and episodes that they could have acted themselves."""

import torch

from bmaml.episodes import Episodes
from bmaml.learners import POLICIES
from bmaml.networks import MLP

OBSERVATIONS, ACTIONS = 3, 2


def policy_of(name, **settings):
    """A small learner of policies and its random start, whose particles differ."""
    settings = {"particles": 1 if name == "maml" else 4, **settings}
    learner = POLICIES[name](MLP(OBSERVATIONS, (6,), ACTIONS, "tanh"), **settings)
    learned = learner.initialise(torch.Generator().manual_seed(3))
    return learner, {key: value.to(torch.get_default_dtype()) for key, value in learned.items()}


def acted(learner, particles, tasks=3, episodes=4, time=5, ragged=True):
    """A round of episodes with random observations and rewards, acted by `particles`."""
    shape = (tasks, learner.particles, episodes, time)
    mask = torch.ones(shape, dtype=torch.bool)
    if ragged:
        lengths = torch.randint(1, time + 1, shape[:3])
        mask = torch.arange(time) < lengths.unsqueeze(-1)
    observations = torch.randn(*shape, OBSERVATIONS)
    noise = torch.randn(*shape, ACTIONS)
    blank = Episodes(observations, torch.zeros_like(noise), torch.randn(shape), mask)
    means, std = means_of(learner, particles, blank)
    return Episodes(observations, means + std * noise, blank.rewards, mask)


def means_of(learner, particles, episodes):
    """Each particle's mean action at its own observations, and its σ, particle by particle."""
    size = learner.network.size
    particles = particles.expand(len(episodes), -1, -1).detach()
    rows = [
        learner.network(particles[:, [m], :size], episodes.observations[:, m].flatten(1, 2))[:, 0]
        for m in range(learner.particles)
    ]
    means = torch.stack(rows, 1).view_as(episodes.actions)
    return means, particles[:, :, None, None, size:].exp()
