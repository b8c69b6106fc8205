"""Samples of tasks: bounded, seeded, and fair to tasks or to groups."""

import numpy as np
import pytest

from training.families.samples import even_sample, proportional_sample

SAMPLES = pytest.mark.parametrize("sample", [even_sample, proportional_sample])
TASKS = np.arange(100, 400)
GROUPS = np.repeat(np.arange(4), [10, 20, 90, 180])


@SAMPLES
def test_tasks_within_the_bound_are_all_taken(sample):
    assert sample(TASKS, GROUPS, 300, seed=0) is TASKS


@SAMPLES
def test_a_sample_is_seeded_in_order_and_without_repeats(sample):
    first, again, other = (sample(TASKS, GROUPS, 60, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(first) == 60
    assert (np.diff(first) > 0).all()
    assert set(first) <= set(TASKS)


def test_groups_are_sampled_evenly_until_they_have_no_task_left():
    found = even_sample(TASKS, GROUPS, 60, seed=0)
    assert np.bincount(GROUPS[found - 100]).tolist() == [10, 16, 17, 17] or sorted(
        np.bincount(GROUPS[found - 100])[1:]
    ) == [16, 17, 17]


def test_groups_beyond_the_bound_are_taken_alike_whatever_their_sizes():
    groups = np.r_[np.zeros(50), np.arange(1, 51)].astype(int)
    draws = [even_sample(np.arange(100), groups, 10, seed) for seed in range(400)]
    assert all(len(set(groups[draw])) == 10 for draw in draws)
    share = np.mean([0 in groups[draw] for draw in draws])
    assert abs(share - 10 / 51) < 4 * (10 / 51 * 41 / 51 / 400) ** 0.5


def test_a_proportional_sample_has_every_group_in_its_share():
    for seed in range(5):
        counts = np.bincount(GROUPS[proportional_sample(TASKS, GROUPS, 60, seed) - 100])
        assert np.abs(counts - [2, 4, 18, 36]).max() <= 1


def test_means_over_a_proportional_sample_are_unbiased():
    values = np.where(GROUPS == 0, 30.0, GROUPS)
    means = [values[proportional_sample(TASKS, GROUPS, 25, seed) - 100].mean() for seed in range(300)]
    assert abs(np.mean(means) - values.mean()) < 4 * np.std(means) / 300**0.5
