"""bmaml-train tune: trials are scored on validation tasks alone, failures recorded, the best published."""

import os
import signal
import sqlite3

import pytest
import torch

from model_store import Store
from tests.training.sine_run import arguments
from training.__main__ import main
from training.config import InvalidConfig
from training.families import Sinusoid
from training.loop import TrainingResult

optuna = pytest.importorskip("optuna")
search = pytest.importorskip("training.search")

pytestmark = [
    pytest.mark.usefixtures("few_held_out_tasks"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]


def command(tmp_path, *more, trials=4, vary=("learning-rate=0.001:0.1:log",), **changes):
    training = arguments(
        tmp_path, **{"learner": "maml", "particles": 1, "hidden": 4, "meta-steps": 6, **changes}
    )
    return ["tune", "--trials", str(trials), "--vary", *vary, *more, *training]


def study(tmp_path, name="s"):
    return optuna.load_study(study_name=name, storage=f"sqlite:///{tmp_path / 'runs' / name / 'study.db'}")


def outcomes(tmp_path):
    return [trial.state.name for trial in study(tmp_path).get_trials()]


class Scripted:
    """A training whose looks are given by its learning rate, and what is published in the end."""

    def __init__(self):
        self.published, self.during, self.trained = [], [], 0

    def train(self, run, folder, device, on_look, stopped):
        self.trained += 1
        if self.during:
            self.during.pop(0)()
        nll = abs(run.config.optimisation.learning_rate - 0.01)
        history = [(step, 0.0, nll + 1 / step) for step in (2, 4, 6)]
        for look in history:
            if stopped():
                raise search.Interrupted("stopped at step 2; go on with --resume")
            on_look(*look)
        folder.mkdir(parents=True, exist_ok=True)
        return TrainingResult({"rate": torch.tensor(nll)}, history, 6, "the run ended")

    def publish(self, run, trained, choices):
        self.published.append((run, trained, choices))
        version = len(self.published)
        return type("Model", (), {"manifest": type("Manifest", (), {"version": version})})


@pytest.fixture
def scripted(monkeypatch):
    script = Scripted()
    monkeypatch.setattr(search, "train_run", script.train)
    monkeypatch.setattr(search, "publish_run", script.publish)
    return script


def test_the_best_alone_is_published_and_is_the_run_of_its_options(tmp_path, capsys):
    assert main(command(tmp_path, trials=3)) == 0
    found = study(tmp_path)
    words = found.best_trial.user_attrs["options"]
    store = Store(tmp_path / "store")
    assert (store.names(), store.versions("s")) == (["s"], [1])
    model, card = store.load("s"), store.card("s")
    looks = sum(len(trial.intermediate_values) for trial in found.trials)
    assert f"a choice among the {looks} recorded steps" in " ".join(card.split())
    assert "Chosen among 3 trials by the validation tasks" in card
    plain = arguments(tmp_path, "plain", **{"learner": "maml", "particles": 1, "hidden": 4, "meta-steps": 6})
    assert main([*plain, *words]) == 0
    assert torch.equal(store.load("plain").learned["initial"], model.learned["initial"])
    assert store.load("plain").manifest.history == model.manifest.history
    assert min(point.nll for point in model.manifest.history[-1:]) == found.best_value
    assert "best: trial" in capsys.readouterr().out


def test_no_trial_sees_a_held_out_task(tmp_path, scripted, monkeypatch):
    monkeypatch.setattr(search, "train_run", pytest.importorskip("training.run").train_run)

    def held_out(self, shots=None):
        raise AssertionError("a held-out task")

    monkeypatch.setattr(Sinusoid, "held_out", held_out)
    assert main(command(tmp_path, trials=2)) == 0
    assert outcomes(tmp_path) == ["COMPLETE"] * 2
    assert len(scripted.published) == 1


def test_the_first_trial_is_the_command_as_it_stands(tmp_path, scripted, capsys):
    assert main(command(tmp_path, trials=2, **{"learning-rate": 0.5})) == 1  # given and varied
    assert main(command(tmp_path, trials=2)) == 0
    first, second = study(tmp_path).get_trials()
    assert first.user_attrs["options"] == []
    assert second.user_attrs["options"][0] == "--learning-rate"
    assert "as the command stands" in capsys.readouterr().out


def test_a_search_that_is_taken_up_again_makes_the_trials_of_a_whole_one(tmp_path, scripted):
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    for trials in (2, 5):
        assert main(command(parts, trials=trials)) == 0
    assert main(command(whole, trials=5)) == 0
    one, other = (study(each).get_trials() for each in (parts, whole))
    assert [trial.params for trial in one] == [trial.params for trial in other]
    assert len({str(trial.params) for trial in one}) == 5


def test_a_finished_search_publishes_again_only_what_is_better(tmp_path, scripted, capsys):
    assert main(command(tmp_path, trials=3)) == 0
    assert main(command(tmp_path, trials=3)) == 0
    assert (scripted.trained, len(scripted.published)) == (3, 1)
    assert "is published as version 1" in capsys.readouterr().err
    assert main(command(tmp_path, trials=30)) == 0
    best = min(float(trained.learned["rate"]) for _, trained, _ in scripted.published)
    assert float(scripted.published[-1][1].learned["rate"]) == best
    assert study(tmp_path).user_attrs["published"]["version"] == len(scripted.published)


def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_search_goes_on(tmp_path, scripted, capsys):
    def fail():
        raise RuntimeError("out of memory\nand more")

    scripted.during = [lambda: None, fail]
    assert main(command(tmp_path, trials=4)) == 0
    assert outcomes(tmp_path) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert study(tmp_path).get_trials()[1].user_attrs["reason"] == "RuntimeError: out of memory"
    told = capsys.readouterr()
    assert "failed: RuntimeError: out of memory" in told.err
    assert "4 trials: 3 whole, 0 pruned, 1 failed" in told.out


def test_options_that_make_no_run_fail_their_trial_alone(tmp_path, scripted):
    vary = ("warmup=-3:-1",)
    assert main(command(tmp_path, trials=2, vary=vary)) == 0
    first, second = study(tmp_path).get_trials()
    assert (first.state.name, second.state.name) == ("COMPLETE", "FAIL")
    assert "warmup, patience and clip cannot be negative" in second.user_attrs["reason"]


def test_a_search_without_any_score_publishes_nothing(tmp_path, scripted, capsys):
    def fail():
        raise InvalidConfig("no such thing")

    scripted.during = [fail, fail]
    assert main(command(tmp_path, trials=2)) == 1
    assert "none of 2 trials came to its end; the first: no such thing" in capsys.readouterr().err
    assert scripted.published == []


def test_a_trial_above_the_median_is_pruned_at_a_look(tmp_path, scripted, monkeypatch):
    monkeypatch.setattr("training.study.MIN_TRIALS_TO_PRUNE", 3)
    bad = ("learning-rate=0.5:0.6",)
    assert main(command(tmp_path, trials=12)) == 0
    assert "PRUNED" in outcomes(tmp_path)
    pruned = [trial for trial in study(tmp_path).get_trials() if trial.state.name == "PRUNED"]
    assert all(max(trial.intermediate_values) < 6 for trial in pruned)
    assert all(max(trial.intermediate_values) >= 2 for trial in pruned)  # a third of six steps is never cut
    assert main(command(tmp_path / "whole", "--no-prune", trials=12, vary=bad)) == 0
    assert set(outcomes(tmp_path / "whole")) == {"COMPLETE"}


def test_ctrl_c_ends_at_a_whole_trial_and_the_same_command_goes_on(tmp_path, scripted, capsys):
    scripted.during = [lambda: None, lambda: os.kill(os.getpid(), signal.SIGINT)]
    assert main(command(tmp_path)) == 130
    assert outcomes(tmp_path) == ["COMPLETE"] * 2
    assert "stopped after 2 trials; the same command goes on" in capsys.readouterr().err
    assert scripted.published == []
    assert main(command(tmp_path)) == 0
    assert outcomes(tmp_path) == ["COMPLETE"] * 4
    assert len(scripted.published) == 1


def test_a_second_ctrl_c_stops_the_trial_which_begins_anew(tmp_path, scripted):
    def twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    scripted.during = [lambda: None, twice]
    assert main(command(tmp_path, trials=3)) == 130
    assert outcomes(tmp_path) == ["COMPLETE", "FAIL", "WAITING"]
    assert main(command(tmp_path, trials=3)) == 0
    assert outcomes(tmp_path) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    _, cut, again, _ = study(tmp_path).get_trials()
    assert cut.params == again.params


def test_a_worker_that_ends_while_another_works_leaves_the_publication_to_it(tmp_path, scripted, capsys):
    def other_worker():
        assert main(command(tmp_path)) == 0
        assert scripted.published == []
        assert "1 trial(s) still run in other workers" in capsys.readouterr().err

    scripted.during = [other_worker]
    assert main(command(tmp_path)) == 0
    assert outcomes(tmp_path) == ["COMPLETE"] * 4
    assert len({str(trial.params) for trial in study(tmp_path).get_trials()}) == 4
    assert len(scripted.published) == 1


def test_the_trial_of_a_lost_worker_begins_anew(tmp_path, scripted):
    scripted.during = [lambda: None, lambda: os.kill(os.getpid(), signal.SIGINT)]
    assert main(command(tmp_path, trials=3)) == 130
    lost = study(tmp_path).ask()
    database = tmp_path / "runs" / "s" / "study.db"
    with sqlite3.connect(database) as connection:
        connection.execute(
            "insert into trial_heartbeats (trial_id, heartbeat) values (?, datetime('now', '-1 hour'))",
            (lost._trial_id,),
        )
    connection.close()
    assert main(command(tmp_path, trials=3)) == 0
    assert outcomes(tmp_path) == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    assert len(scripted.published) == 1


def test_another_command_is_refused_by_the_study_of_a_name(tmp_path, scripted, capsys):
    assert main(command(tmp_path, trials=2)) == 0
    assert main(command(tmp_path, trials=2, queries=5)) == 1
    assert "has family.queries 4, and this command 5" in capsys.readouterr().err
    assert main(command(tmp_path, trials=2, vary=("learning-rate=0.001:0.2:log",))) == 1
    assert "--vary" in capsys.readouterr().err


def test_other_validation_tasks_are_refused(tmp_path, scripted, monkeypatch, capsys):
    assert main(command(tmp_path, trials=2)) == 0
    monkeypatch.setattr("training.families.sinusoid.VALIDATION_TASKS", 11)
    assert main(command(tmp_path, trials=3)) == 1
    assert "validation tasks are others" in capsys.readouterr().err
    assert scripted.trained == 2


def test_a_storage_that_cannot_be_opened_is_named_without_its_password(tmp_path, scripted, capsys):
    for address in ("nothing", "sqlite:////no/such/folder/study.db", "postgres-x://me:secret@localhost/db"):
        assert main(command(tmp_path, "--storage", address)) == 1
        told = capsys.readouterr().err
        assert "--storage cannot be opened" in told
        assert "secret" not in told


def test_parameters_that_another_machine_keeps_are_asked_for(tmp_path, scripted, capsys):
    storage = ["--storage", f"sqlite:///{tmp_path / 'shared.db'}"]
    scripted.during = [lambda: None, lambda: os.kill(os.getpid(), signal.SIGINT)]
    assert main(command(tmp_path, *storage, trials=3, runs="here")) == 130
    scripted.during = [lambda: (_ for _ in ()).throw(InvalidConfig("no"))]
    assert main(command(tmp_path, *storage, trials=3, runs="there")) == 1
    assert "all workers need the same --runs" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["numbers", "classes", "new classes", "images", "world"])
def test_every_kind_of_training_has_options_to_vary_by_itself(tmp_path, scripted, kind, request):
    rows = [f"{task},{x},{(task + x) % 3 + x / 7},{'abcdefghi'[x]}" for task in range(12) for x in range(9)]
    table = tmp_path / "rows.csv"
    table.write_text("\n".join(["t,x,y,c", *rows]))
    lines = {
        "numbers": ["table", str(table), "--task", "t", "--x", "x", "--y", "y"],
        "classes": ["table", str(table), "--task", "t", "--x", "x", "--y", "c", "--target", "classes"],
        "new classes": [
            "table",
            str(table),
            "--x",
            "x",
            "y",
            "--y",
            "t",
            "--new-classes",
            "--target",
            "classes",
        ],
        "world": ["world", "navigation"],
    }
    if kind == "images":
        lines["images"] = [
            "images",
            str(request.getfixturevalue("folder")),
            "--classes",
            "3",
            "--split",
            "folder",
        ]
    where = [
        "--name",
        "n",
        "--device",
        "cpu",
        "--store",
        str(tmp_path / "store"),
        "--runs",
        str(tmp_path / "runs"),
    ]
    assert main(["tune", "--trials", "3", *lines[kind], *where]) == 0
    trials = study(tmp_path, "n").get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3, [trial.user_attrs for trial in trials]
    assert len(trials[1].params) >= 2
