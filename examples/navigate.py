"""A point looks for a hidden goal in the plane: the world is here, the policy is behind HTTP.

    python examples/navigate.py ring --url http://127.0.0.1:8000 --picture paths.png

The model is one that `bmaml-train world ring` or `bmaml-train world navigation` has published. Each round
every particle acts a few episodes side by side, and the service adapts to them. The picture has the paths of
each round, and those of the particle that is chosen after the last. It needs matplotlib.
"""

import argparse

import numpy as np

from bmaml_client import Client, Episode, PolicyPosterior

STEP = 0.1
"""The distance that the largest action moves the point, along each axis."""


class World:
    """A goal that the policy never sees, on the ring or in the square, and the rewards of steps."""

    def __init__(self, name: str, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.ring, angle = name != "navigation", random.uniform(0, 2 * np.pi)
        self.goal = np.array([np.cos(angle), np.sin(angle)]) if self.ring else random.uniform(-0.5, 0.5, 2)
        self.horizon = 20 if self.ring else 100

    def rewards(self, places: np.ndarray) -> np.ndarray:
        """Minus the distance from the goal; on the ring 1 − distance, near the goal alone."""
        distance = np.linalg.norm(places - self.goal, axis=-1)
        return np.where(distance <= 0.2, 1 - distance, 0.0) if self.ring else -distance

    def ended(self, places: np.ndarray) -> np.ndarray:
        """Whether an episode ends there before its horizon: within 0.01 of the goal, in navigation."""
        return (np.abs(places - self.goal) < 0.01).all(-1) & (not self.ring)


def episodes(
    client: Client,
    model: str,
    world: World,
    posterior: PolicyPosterior | None,
    particle: int,
    count: int,
    seed: int,
) -> list[Episode]:
    """Episodes of one particle, side by side: one request for each step."""
    places, steps = np.zeros((count, 2)), []
    lengths = np.full(count, world.horizon)
    for time in range(world.horizon):
        answer = client.act(model, places, particle=particle, posterior=posterior, seed=seed + time)
        after = places + STEP * answer.command  # the command is carried out, the action is posted back
        steps.append((places, answer.action, world.rewards(after)))
        lengths = np.where(world.ended(after), np.minimum(lengths, time + 1), lengths)
        places = after
    seen, actions, rewards = (np.stack(each, 1) for each in zip(*steps, strict=True))
    number = 0 if posterior is None else posterior.state.rounds
    return [
        Episode(number, particle, seen[i, :length], actions[i, :length], rewards[i, :length])
        for i, length in enumerate(lengths)
    ]


def mean_return(found: list[Episode]) -> float:
    """The mean over episodes of the sum of rewards."""
    return float(np.mean([each.rewards.sum() for each in found]))


def draw(path: str, world: World, acted: list[list[Episode]]) -> None:
    """A panel for each round: the paths, a colour for each particle, and the goal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(acted), 3.3), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(acted)))
    for number, (panel, found) in enumerate(zip(panels, acted, strict=True)):
        for each in found:
            panel.plot(*each.observations.T, color=f"C{each.particle % 10}", linewidth=0.8)
        panel.plot(*world.goal, "k*", markersize=12)
        panel.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
        panel.set_title("chosen" if number == len(acted) - 1 else f"round {number}")
    figure.savefig(path)


def main() -> None:
    """Act, adapt, act again."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("model", help="the policy's name")
    arguments.add_argument("--url", default="http://127.0.0.1:8000")
    arguments.add_argument("--world", choices=("ring", "navigation"), default="ring")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--episodes", type=int, default=5, help="of each particle in a round")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--picture", help="a file for the picture")
    options = arguments.parse_args()
    world, acted, posterior = World(options.world, options.seed), [], None
    with Client(options.url) as client:
        particles = client.version(options.model, client.model(options.model).versions[-1]).particles
        for number in range(options.rounds):
            found = []
            for particle in range(particles):
                seed = 1_000_000 * options.seed + 1000 * (particles * number + particle)
                found += episodes(client, options.model, world, posterior, particle, options.episodes, seed)
            posterior = client.adapt_policy(options.model, found, posterior=posterior)
            acted.append(found)
            best = int(posterior.state.returns.argmax())
            print(f"round {number}: mean return {mean_return(found):.2f}, best particle {best}")
        seed = 1_000_000 * options.seed + 999_000
        acted.append(episodes(client, options.model, world, posterior, best, options.episodes, seed))
        print(f"chosen: particle {best}, mean return {mean_return(acted[-1]):.2f} on fresh episodes")
    if options.picture:
        draw(options.picture, world, acted)
        print(f"wrote {options.picture}")


if __name__ == "__main__":
    main()
