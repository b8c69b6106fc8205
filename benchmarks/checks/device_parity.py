"""Every shipped model's answers on a device beside those of the CPU.

    python -m benchmarks.checks.device_parity [--device cuda]

Every model adapts to the same random tasks on both: rows and queries, images of three classes, or a round of
episodes. Differences are of means and of the logarithms of variances, in standardised units, or of
probabilities. The exit status is 1 where one exceeds the tolerance.
"""

import dataclasses
import sys
from typing import Any

import torch
from torch import Tensor

from benchmarks import command_line
from bmaml.categorical import Categorical
from bmaml.learners import Policy
from bmaml.predictive import Predictive
from bmaml.task import Examples
from model_store import SHIPPED, Model, Store
from training.config import WorldConfig
from training.families.world_tasks import WorldTasks
from training.families.worlds import rollout

TOLERANCE = 1e-3
"""The largest difference, in standardised units: single precision, and another order of sums."""
TASKS, SHOTS, QUERIES, CLASSES = 4, 6, 20, 3


def answers(model: Model, device: str) -> Tensor:
    """What a model answers about random tasks, as numbers on the CPU; the tasks are the same every time."""
    generator = torch.Generator().manual_seed(0)
    there = model.to(device)
    if isinstance(model.learner, Policy):
        return _actions(there, model.learner, device, generator)
    inputs = model.manifest.inputs
    if model.embedding is not None:
        pixels = model.embedding.channels * model.embedding.size**2
        x = torch.rand(TASKS, SHOTS + QUERIES, pixels, generator=generator)
    else:
        x = torch.randn(TASKS, SHOTS + QUERIES, len(inputs), generator=generator)
    classes = len(model.manifest.labels or ()) or CLASSES
    if model.manifest.kind == "classification":
        y = torch.nn.functional.one_hot(torch.arange(SHOTS) % classes, classes).float().expand(TASKS, -1, -1)
    else:
        y = torch.randn(TASKS, SHOTS, len(model.manifest.outputs), generator=generator)
    with torch.no_grad():
        features = there.embedded(x.to(device))
        support = Examples.full(features[:, :SHOTS], y.to(device))
        posterior = there.learner.adapt(there.learned, support)
        query = features[:, SHOTS:]
        if model.manifest.kind == "classification":
            belief: Categorical = there.classify(posterior, query, support)
            return belief.probabilities().double().cpu()
        return _moments(there.predict(posterior, query, support))


def _actions(model: Model, policy: Policy, device: str, generator: torch.Generator) -> Tensor:
    """The belief about actions after a round of episodes, which the CPU has acted."""
    tasks = WorldTasks(WorldConfig(str(model.manifest.training["family"]["world"]), 5), 0)
    initial = model.learned["initial"].cpu().unsqueeze(0)
    acted = rollout(tasks.world, policy, initial, tasks.world.tasks(TASKS, generator), 5, generator).episodes
    moved: dict[str, Any] = {
        each.name: getattr(acted, each.name).to(device) for each in dataclasses.fields(acted)
    }
    x = torch.randn(TASKS, QUERIES, acted.observations.shape[-1], generator=generator)
    with torch.no_grad():
        posterior = policy.adapt_rounds(model.learned, None, [type(acted)(**moved)])
        return _moments(policy.predict(posterior, x.to(device)))


def _moments(belief: Predictive) -> Tensor:
    return torch.cat([belief.mean(), belief.variance().log()], -1).double().cpu()


def main() -> int:
    """Print a Markdown table; the exit status."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--device", default="cuda")
    options = arguments.parse_args()
    store, worst = Store(SHIPPED), 0.0
    print(f"| model | learner | largest difference, {options.device} and CPU |\n|---|---|---|")
    for name in store.names():
        model = store.load(name)
        difference = (answers(model, options.device) - answers(model, "cpu")).abs().max()
        worst = max(worst, float(difference.nan_to_num(nan=torch.inf)))
        print(f"| `{name}` | `{model.learner.name}` | {float(difference):.1e} |", flush=True)
    print(f"\nThe largest difference is {worst:.1e}; at most {TOLERANCE:.0e} is accepted.")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
