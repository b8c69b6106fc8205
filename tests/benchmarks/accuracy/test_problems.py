"""The validation curves and their halves."""

from benchmarks.accuracy.problems import half_of, training_curves, validation_curves
from tests.benchmarks.accuracy.curve_file import CLASSIFIERS, SIZES, write_curves


def test_the_halves_are_disjoint_even_and_the_same_at_every_call():
    groups = [f"group {number}" for number in range(41)]
    choose, report = half_of(groups, "choose"), half_of(groups, "report")
    assert choose | report == set(groups)
    assert not choose & report
    assert (len(choose), len(report)) == (20, 21)
    assert half_of(reversed(groups * 2), "choose") == choose
    assert choose != set(sorted(groups)[:20])


def test_curves_are_halved_by_data_set(tmp_path):
    path = write_curves(tmp_path / "curves.parquet")
    every, *halves = (validation_curves(path, half) for half in (None, "choose", "report"))
    assert [len(each) for each in (every, *halves)] == [12, 6, 6]
    datasets = [{curve.dataset for curve in half} for half in halves]
    assert not datasets[0] & datasets[1]
    for half in halves:
        assert sorted(curve.classifier for curve in half) == sorted(CLASSIFIERS * 3)


def test_curves_are_in_order_of_size_and_of_their_split(tmp_path):
    path = write_curves(tmp_path / "curves.parquet")
    for split, curves in [("train", training_curves(path)), ("validation", validation_curves(path))]:
        assert len(curves) == 12
        for curve in curves:
            assert curve.sizes.tolist() == SIZES.tolist()
            assert curve.dataset.startswith(split)
