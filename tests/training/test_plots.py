"""`bmaml-train plot` draws what a person wants to see beside the card."""

import numpy as np
import pytest
from matplotlib import image

from model_store import Store
from model_store.manifest import ValidationPoint
from tests.published import SIZE, X, publish
from training.__main__ import main


@pytest.fixture(autouse=True)
def few_held_out_tasks(monkeypatch):
    monkeypatch.setattr("training.families.sinusoid.HELD_OUT_TASKS", 8)


def drawn(tmp_path, capsys, *more):
    assert main(["plot", "tiny", *more, "--store", str(tmp_path)]) == 0
    paths = capsys.readouterr().out.split()
    for path in paths:
        pixels = image.imread(path)
        assert pixels.shape[0] > 200
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50  # not an empty sheet
    return sorted(path.removeprefix(f"{tmp_path}/tiny/1/") for path in paths)


@pytest.mark.parametrize("learner", ["collapsed", "bmaml"])
def test_a_version_is_drawn_beside_its_card_and_stays_valid(tmp_path, capsys, learner):
    publish(
        tmp_path,
        learner=learner,
        inputs=(X,),
        outputs=(X,),
        history=(ValidationPoint(step=1, loss=2.0, nll=3.0),),
    )
    assert drawn(tmp_path, capsys, "sinusoid") == ["history.png", "reliability.png", "tasks.png"]
    assert Store(tmp_path).load("tiny").manifest.name == "tiny"


def test_with_several_inputs_or_without_a_history_those_plots_are_left_out(tmp_path, capsys):
    publish(tmp_path, inputs=(X, SIZE))
    table = tmp_path / "rows.csv"
    draw = np.random.default_rng(0)
    rows = [
        f"{task},{x:.3f},{2**s:.1f},{x + s:.3f}" for task in range(30) for x, s in draw.normal(size=(8, 2))
    ]
    table.write_text("task,x,size,y\n" + "\n".join(rows))
    assert drawn(tmp_path, capsys, str(table), "--task", "task", "--shots", "3:5") == ["reliability.png"]
