"""The benchmark of the half-cheetah: a row before training, one after, and the cost in between."""

import pytest

from benchmarks.accuracy import policy_cheetah


def test_a_curve_begins_before_training_and_tells_its_cost(monkeypatch):
    pytest.importorskip("mujoco")
    pytest.importorskip("gymnasium")
    monkeypatch.setattr(policy_cheetah, "HORIZON", 3)
    monkeypatch.setattr(policy_cheetah, "TASKS", 2)
    first, last = policy_cheetah.curve("BMAML, chaser loss", seed=1, meta_steps=1)
    assert (first[0], last[0]) == (0, 1)
    assert first[1] == 0 < last[1]
    assert len(first[2]) == len(last[3]) == policy_cheetah.ROUNDS + 1
    assert first[2] != last[2]
