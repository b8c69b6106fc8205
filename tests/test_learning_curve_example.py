"""The script behind the playground's learning curves measures what it says."""

import json
import sys

import numpy as np

from examples import measure_learning_curves
from examples.measure_learning_curves import CLASSIFIERS, CURVES, DATA, anchors, curve


def test_anchors_are_half_powers_of_two_up_to_all_rows():
    assert anchors(128) == [16, 23, 32, 45, 64, 91, 128]
    assert anchors(142) == anchors(128)
    assert anchors(160) == [*anchors(128), 160]


def test_a_curve_is_the_mean_accuracy_over_splits_that_do_not_change():
    once = curve("wine", "decision tree", 3)
    assert once == curve("wine", "decision tree", 3)
    assert once["train_size"][0] == 16
    values = np.array(once["accuracy"])
    assert values[-1] > values[0] > 1 / 3
    assert values[-1] > 0.9


def test_every_curve_names_data_and_classifier_once():
    assert len(set(CURVES)) == len(CURVES)
    assert all(data in DATA and classifier in CLASSIFIERS for data, classifier in CURVES)


def test_the_command_writes_what_the_page_reads(tmp_path, monkeypatch):
    out = tmp_path / "curves.json"
    monkeypatch.setattr(measure_learning_curves, "CURVES", [("wine", "decision tree")])
    monkeypatch.setattr(sys, "argv", ["measure", "--out", str(out), "--repeats", "2"])
    measure_learning_curves.main()
    written = json.loads(out.read_text())
    assert (written["input"], written["output"]) == ("train_size", "accuracy")
    assert written["curves"] == [curve("wine", "decision tree", 2)]
    assert written["provenance"]["repeats"] == 2
