"""Measure real learning curves on scikit-learn's bundled data sets, for the playground's examples.

    python examples/measure_learning_curves.py --out service/playground/data/learning-curves.json

One curve is one classifier on one data set: its accuracy on held-out rows after training on 16, 23, 32,
45 … rows, as far as the data goes, averaged over random splits. A fifth of the rows (at least 50) is held
out in each.
"""

import argparse
import json
import platform
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sklearn
from sklearn.base import ClassifierMixin, clone
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import ExtraTreesClassifier, GradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

DATA = {"digits": load_digits, "breast cancer": load_breast_cancer, "wine": load_wine}
CLASSIFIERS: dict[str, ClassifierMixin] = {
    "random forest": RandomForestClassifier(n_estimators=50, random_state=0),
    "extra trees": ExtraTreesClassifier(n_estimators=50, random_state=0),
    "gradient boosting": GradientBoostingClassifier(n_estimators=30, random_state=0),
    "decision tree": DecisionTreeClassifier(random_state=0),
    "nearest neighbours": KNeighborsClassifier(5),
    "naive Bayes": GaussianNB(var_smoothing=1e-3),
    "logistic regression": make_pipeline(StandardScaler(), LogisticRegression()),
    "support vectors": make_pipeline(StandardScaler(), SVC()),
}
CURVES = [
    ("digits", "random forest"),
    ("digits", "logistic regression"),
    ("digits", "support vectors"),
    ("digits", "nearest neighbours"),
    ("digits", "naive Bayes"),
    ("digits", "decision tree"),
    ("breast cancer", "random forest"),
    ("breast cancer", "gradient boosting"),
    ("breast cancer", "decision tree"),
    ("breast cancer", "nearest neighbours"),
    ("wine", "extra trees"),
    ("wine", "nearest neighbours"),
    ("wine", "support vectors"),
]
REPEATS = 25


def anchors(rows: int) -> list[int]:
    """Training sizes 2^(k/2) from 16, and all rows, where the last of these leaves more than 15 % unused."""
    sizes = [round(2 ** (step / 2)) for step in range(8, 64) if 2 ** (step / 2) <= rows]
    return sizes if sizes[-1] >= 0.85 * rows else [*sizes, rows]


def curve(data: str, classifier: str, repeats: int) -> dict[str, object]:
    """Mean accuracy of one classifier on one data set at every anchor."""
    x, y = DATA[data](return_X_y=True)
    held_out = max(50, len(y) // 5)
    sizes = anchors(len(y) - held_out)
    scores = np.zeros((repeats, len(sizes)))
    for repeat in range(repeats):
        split = train_test_split(x, y, test_size=held_out, random_state=repeat, stratify=y)
        train_x, test_x, train_y, test_y = split
        for index, size in enumerate(sizes):
            fitted = clone(CLASSIFIERS[classifier]).fit(train_x[:size], train_y[:size])
            scores[repeat, index] = fitted.score(test_x, test_y)
    return {
        "data": data,
        "classifier": classifier,
        "train_size": sizes,
        "accuracy": [round(float(value), 4) for value in scores.mean(0)],
    }


def measured(pairs: Sequence[tuple[str, str]], repeats: int) -> dict[str, object]:
    """The curves, and how they came about."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    return {
        "input": "train_size",
        "output": "accuracy",
        "provenance": {
            "script": "examples/measure_learning_curves.py",
            "scikit_learn": sklearn.__version__,
            "python": platform.python_version(),
            "repeats": repeats,
            "held_out": "a fifth of the rows, at least 50, stratified, drawn anew for every repeat",
            "data": "bundled with scikit-learn, from the UCI repository: digits, breast cancer, wine",
        },
        "curves": [curve(data, classifier, repeats) for data, classifier in pairs],
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="random splits to average over")
    options = parser.parse_args()
    result = measured(CURVES, options.repeats)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for each in result["curves"]:  # type: ignore[attr-defined]
        print(f"{each['data']}, {each['classifier']}: {each['accuracy'][0]} … {each['accuracy'][-1]}")


if __name__ == "__main__":
    main()
