"""bmaml-train: learners train and publish, a seed gives one version, settings are refused in a sentence."""

import pytest

from model_store import Store
from tests.training.sine_run import arguments
from training.__main__ import main

pytestmark = pytest.mark.usefixtures("few_held_out_tasks")


@pytest.mark.parametrize(
    ("learner", "figure"),
    [
        ("maml", "nll"),
        ("emaml", "nll"),
        ("llama", "mse"),
        ("bfa", "nll"),
        ("bmaml", "mse"),
        ("collapsed", "nll"),
    ],
)
def test_training_improves_and_publishes_with_measured_figures(tmp_path, learner, figure, capsys):
    one = {"learner": learner, "particles": 1 if learner == "maml" else 3}
    own = ["--no-surprise", "--no-pooled"] if learner == "collapsed" else []  # which forecasts untrained, too
    assert main([*arguments(tmp_path, **one, **{"meta-steps": 5}), *own]) == 0
    assert main([*arguments(tmp_path, **one, **{"meta-steps": 200, "evaluate-every": 50}), *own]) == 0
    store = Store(tmp_path / "store")
    before, after = (store.load("s", version).manifest.metrics for version in (1, 2))
    assert after[figure] < before[figure]
    assert set(after) == {
        "mse",
        "median_mse",
        "rmse",
        "particle_mse",
        "crps",
        "nll",
        "sharpness",
        "effective_particles",
        "coverage_50",
        "coverage_80",
        "coverage_90",
        "coverage_95",
        "conformal_coverage_90",
    }
    assert "published s version 2" in capsys.readouterr().out
    assert "| nll |" in store.card("s")
    assert store.load("s").manifest.conformal.tasks == 10
    assert "counted on 10 validation tasks" in store.card("s")


def test_a_seed_gives_the_same_version_twice(tmp_path):
    for run in ("one", "two"):
        assert main(arguments(tmp_path, name=run, runs=run)) == 0
    store = Store(tmp_path / "store")
    one, two = store.load("one").manifest, store.load("two").manifest
    assert one.files["particles.safetensors"] == two.files["particles.safetensors"]
    assert one.metrics == two.metrics
    assert main(arguments(tmp_path, name="three", seed=1)) == 0
    assert store.load("three").manifest.files != one.files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"particles": 0}, "at least one particle"),
        ({"shots": "5:2"}, "lowest <= highest"),
        ({"shots": "0"}, "nothing to adapt to"),
        ({"meta-steps": 0}, "meta_steps must be"),
        ({"learning-rate": -1}, "learning rates must be"),
        ({"name": "No Such"}, "not a model name"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_a_sentence(tmp_path, changes, message, capsys):
    changes = dict(changes)
    name = changes.pop("name", "s")
    assert main(arguments(tmp_path, name=name, **changes)) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--shots", "2:6"], (2, 6)),
        (["--shots", "4"], None),
        (["--shots", "2:6", "--no-correlated"], None),
        (["--shots", "2:6", "--no-evidence-weights"], None),
    ],
)
def test_rows_of_tables_are_correlated_where_that_can_be_found(tmp_path, flags, expected):
    file = tmp_path / "table.csv"
    rows = [f"{task},{x},{task + x}" for task in range(9) for x in range(9)]
    file.write_text("\n".join(["t,x,y", *rows]))
    where = ["--store", str(tmp_path / "store"), "--runs", str(tmp_path / "runs")]
    command = ["table", str(file), "--name", "t", "--task", "t", "--x", "x", "--y", "y", "--meta-steps", "1"]
    assert main([*command, "--particles", "2", "--hidden", "4", *where, *flags]) == 0
    assert Store(tmp_path / "store").load("t").learner.correlated == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--shots", "0:4"], True),
        (["--shots", "1:4"], False),
        (["--shots", "0:4", "--no-prior-widening"], False),
    ],
)
def test_how_wide_to_predict_without_rows_is_found_where_tasks_have_none(tmp_path, flags, expected):
    where = ["--store", str(tmp_path / "store"), "--runs", str(tmp_path / "runs")]
    command = ["sinusoid", "--name", "s", "--meta-steps", "1", "--particles", "2", "--hidden", "4"]
    assert main([*command, *where, *flags]) == 0
    model = Store(tmp_path / "store").load("s")
    assert model.learner.prior_widening == expected
    assert ("log_prior_widening" in model.learned) == expected


def test_any_version_can_be_scored_again(tmp_path, capsys):
    assert main(arguments(tmp_path)) == 0
    published = Store(tmp_path / "store").load("s").manifest.metrics
    capsys.readouterr()
    store = ["--store", str(tmp_path / "store")]
    assert main(["evaluate", "s", "sinusoid", "--shots", "4", *store]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert float(printed["nll"]) == pytest.approx(published["nll"], rel=1e-3)
    assert main(["evaluate", "s", "sinusoid", "--shots", "0", *store]) == 0  # the prior's own figures
    prior = dict(line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert float(prior["nll"]) != float(printed["nll"])
    assert main(["evaluate", "nobody", "sinusoid", *store]) == 1
    assert "no model 'nobody'" in capsys.readouterr().err
