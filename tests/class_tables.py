"""Small untrained classifiers of tables, published into a store of their own."""

from pathlib import Path

import torch

from bmaml.learners import LEARNERS, settings_of
from bmaml.networks import MLP
from model_store import Column, Model, Store
from model_store.class_target import ClassTarget, Label
from tests.published import SIZE, X

LABELS = ("fails", "passes", "repeats")
MOST_CLASSES = 12


def publish_class_table(
    root: Path,
    name: str = "grades",
    labels: tuple[Label, ...] | None = LABELS,
    ordered: bool = False,
    learner: str = "emaml",
    inputs: tuple[Column, ...] = (X, SIZE),
    **settings: object,
) -> Model:
    """An untrained classifier: of these classes, or of new ones where labels are None."""
    conjugate, laplace = learner == "conjugate", learner == "laplace"
    outputs = len(labels) if labels is not None else 8 if conjugate else MOST_CLASSES
    if laplace:
        settings = {"classes": outputs, "ordered": ordered, **settings}
        outputs = 1 if ordered else outputs
    elif not conjugate:
        settings = {"likelihood": "categorical", "fixed_classes": labels is not None, **settings}
        settings = {"step_size": 0.1, **settings}
    network = MLP(len(inputs), () if conjugate else (6,), outputs, "tanh")
    built = LEARNERS[learner](network, **{"particles": 1 if learner == "maml" else 4, **settings})
    generator = torch.Generator().manual_seed(0)
    learned = built.initialise(generator)
    learned["initial"] += 0.3 * torch.randn(learned["initial"].shape, generator=generator)
    return Store(root).publish(
        name,
        "# A card\n",
        learned,
        kind="classification",
        inputs=inputs,
        classes=MOST_CLASSES if labels is None else len(labels),
        target=ClassTarget(name="outcome", labels=labels, ordered=ordered),
        learner=learner,
        settings=settings_of(built),
        training={"family": {"kind": "table", "shots": {"lowest": 0, "highest": 10}}},
        seed=0,
        code_version="0.1.0",
        metrics={"nll_3rows": 0.5},
    )
