"""Milliseconds of a policy's round: 1,000 posted steps of the shipped `navigation`, decoded and adapted to.

    python -m benchmarks.speed.policy_round --page docs/policies.md

Two episodes of each of five particles take a hundred steps each, since they stop at no goal. The bytes of
`POST /adapt-predict` are parsed and checked, then the particles move once and answer one observation, on one
thread.
"""

import json
import statistics
import time
from typing import Any

import torch

from benchmarks import command_line, pages
from benchmarks.timing import timed
from bmaml.episodes import Episodes
from bmaml.learners import Policy
from model_store import SHIPPED, Store
from service.codec import bodies
from service.codec.decode import Decoder
from service.compute.batch import answer_batch
from service.engine.posterior_cache import PosteriorCache
from service.job import Answer
from service.ops.metrics import Metrics
from service.schemas.requests import AdaptPredictRequest
from service.settings import Settings
from training.families.worlds import rollout, world_of

EPISODES = 2
"""Episodes of each particle."""
REPEATS = 50


def posted(episodes: Episodes) -> list[dict[str, Any]]:
    """The episodes of one task as a request has them."""
    _, particles, count, _ = episodes.mask.shape
    parts = {
        "observations": episodes.observations,
        "actions": episodes.actions,
        "rewards": episodes.rewards,
    }
    found = []
    for particle in range(particles):
        for place in range(count):
            taken = episodes.mask[0, particle, place]
            own = {name: part[0, particle, place][taken].tolist() for name, part in parts.items()}
            found.append({"round": 0, "particle": particle, **own, "ended": True})
    return found


def main() -> None:
    """Print the medians, or write them into a page."""
    arguments = command_line.parser(__doc__)
    command_line.add_page(arguments)
    options = arguments.parse_args()
    if options.page:
        pages.check(options.page, "policy-round")
    torch.set_num_threads(1)
    model = Store(SHIPPED).load("navigation")
    policy = model.learner
    assert isinstance(policy, Policy)
    generator, world = torch.Generator().manual_seed(0), world_of("navigation")
    goal = torch.full((1, 2), 5.0)  # out of reach: no episode ends early
    start = policy.prior(model.learned).particles
    episodes = rollout(world, policy, start, goal, EPISODES, generator).episodes
    steps = int(episodes.mask.sum())
    body = json.dumps(
        {
            "model": "navigation",
            "support": {"episodes": posted(episodes)},
            "query": {"x": [[0.1, 0.0]]},
            "act": {"how": "best", "seed": 0},
        }
    ).encode()
    decoder = Decoder(Settings(), PosteriorCache(0, b"", Metrics()))

    def decoded() -> Any:
        request = bodies.parsed(body, bodies.JSON, AdaptPredictRequest)
        return decoder.prediction_job(request, model, "", time.monotonic())

    job = decoded()

    def adapted() -> None:
        (answer,) = answer_batch([job])
        assert isinstance(answer, Answer)

    decode, adapt = (statistics.median(timed(run, REPEATS)) for run in (decoded, adapted))
    lines = [
        f"Median of {REPEATS} calls on a {options.machine}, one thread.",
        "",
        "| steps | particles | body, kB | decode, ms | adapt and answer, ms |",
        "|---|---|---|---|---|",
        f"| {steps} | {policy.particles} | {len(body) / 1e3:.0f} | {decode:.1f} | {adapt:.1f} |",
    ]
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, "policy-round")


if __name__ == "__main__":
    main()
