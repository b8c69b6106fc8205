"""A small file of made-up learning curves, in the form of the real one."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

CLASSIFIERS = ("SVC_linear", "GradientBoostingClassifier")
SIZES = np.round(16 * 2 ** np.arange(0, 6, 0.5)).astype(int)


def write_curves(path: Path, datasets: int = 6, splits: tuple[str, ...] = ("train", "validation")) -> Path:
    """Curves a − b n^−c with noise: one of every classifier on every data set of each split."""
    random = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for split in splits:
        for dataset in range(datasets):
            for classifier in CLASSIFIERS:
                best, gain, rate = random.uniform((0.6, 0.5, 0.3), (0.95, 1.5, 0.8))
                for size in SIZES:
                    accuracy = best - gain * size**-rate + 0.005 * random.standard_normal()
                    rows.append(
                        {
                            "curve": f"{split} {dataset} {classifier}",
                            "dataset": f"{split} {dataset}",
                            "learner": classifier,
                            "train_size": int(size),
                            "accuracy": accuracy,
                            "split": split,
                        }
                    )
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    return path
