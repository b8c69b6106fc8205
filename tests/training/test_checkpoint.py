"""Checkpoints: one run a folder, and no other run's settings."""

import numpy as np
import pytest

from tests.training.sine_run import arguments
from training import loop
from training.__main__ import main
from training.checkpoint import locked

pytestmark = pytest.mark.usefixtures("few_held_out_tasks")


def test_two_runs_of_one_name_do_not_share_a_folder(tmp_path, capsys):
    with locked(tmp_path / "runs" / "s"):
        assert main(arguments(tmp_path)) == 1
    assert "another run is at work in" in capsys.readouterr().err
    assert main(arguments(tmp_path)) == 0


def test_a_checkpoint_of_other_settings_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "CHECKPOINT_INTERVAL_S", 0)
    assert main(arguments(tmp_path)) == 0
    assert main([*arguments(tmp_path, seed=9), "--resume"]) == 1
    assert "other settings" in capsys.readouterr().err
    assert main([*arguments(tmp_path, runs="nowhere"), "--resume"]) == 1
    assert "no checkpoint" in capsys.readouterr().err


def test_a_checkpoint_of_other_data_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "CHECKPOINT_INTERVAL_S", 0)
    draw, data = np.random.default_rng(0), tmp_path / "t.csv"
    rows = [(task, x, draw.normal()) for task in range(12) for x in range(6)]

    def written(slope):
        data.write_text("\n".join(["t,x,y", *(f"{task},{x},{y + slope * x}" for task, x, y in rows)]))

    written(0)
    command = ["table", str(data), "--name", "few", "--x", "x", "--y", "y", "--task", "t", "--shots", "2:3"]
    command += ["--meta-steps", "4", "--hidden", "6", "--particles", "2", "--store", str(tmp_path / "store")]
    command += ["--runs", str(tmp_path / "runs"), "--learner", "bmaml"]
    assert main(command) == 0
    assert main([*command, "--resume"]) == 0
    written(2)
    assert main([*command, "--resume"]) == 1
    assert "belongs to a run on other data" in capsys.readouterr().err
