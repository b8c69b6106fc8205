"""Settings of a run: numbers of shots, and settings that make no task."""

import pytest

from training.config import ImagesConfig, InvalidConfig, Shots


@pytest.mark.parametrize(("text", "expected"), [("5", Shots(5, 5)), ("3:10", Shots(3, 10))])
def test_shots_are_a_number_or_a_range(text, expected):
    assert Shots.parse(text) == expected


@pytest.mark.parametrize("text", ["", "a", "3:", "5:3", "-1:4"])
def test_other_shots_are_refused(text):
    if text == "3:":
        assert Shots.parse(text) == Shots(3, 3)
        return
    with pytest.raises(InvalidConfig):
        Shots.parse(text)


@pytest.mark.parametrize("changes", [{"ways": 1}, {"queries": 0}, {"augment": -1.0}, {"shots": Shots(0, 2)}])
def test_settings_that_make_no_task_are_refused(changes):
    with pytest.raises(InvalidConfig):
        ImagesConfig("somewhere", **changes)
