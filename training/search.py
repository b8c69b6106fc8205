"""One worker of a search: its trials, and the publication of the best.

Workers are processes with the same command. They share the storage and the folder of runs, and meet nowhere
else. Trial 0 is the command as it stands. The draws of trial n follow from the seed, n and the trials that
had ended by then, so that one worker, interrupted or not, makes the same search.
"""

import io
import json
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, redirect_stderr
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import torch
from optuna.exceptions import ExperimentalWarning, OptunaError, TrialPruned
from optuna.samplers import TPESampler
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from bmaml import __version__
from bmaml.errors import BmamlError
from training.checkpoint import CHECKPOINT, locked
from training.families.world_tasks import WorldTasks
from training.fingerprint import moments
from training.loop import Interrupted, TrainingResult
from training.run import Run, device_of, publish_run, train_run, version_folder
from training.stopping import counted_signals
from training.study import (
    INTERRUPTED,
    SECONDS_UNTIL_LOST,
    StudyUnavailable,
    again,
    first_line,
    is_lost,
    is_plain,
    opened,
    suggested,
)
from training.tracking import tracked
from training.tune import SearchOptions
from training.varied import Varied

ROUNDING = 1e-4
"""Largest difference of validation tasks that machines with other rounding explain."""
RESULT = "result.pt"


class OtherStudy(BmamlError):
    """The search has other options or other validation tasks than the one that its storage holds."""


class NothingFound(BmamlError):
    """No trial of a search came to its end."""


class Search:
    """One worker of a search."""

    def __init__(
        self,
        options: SearchOptions,
        run: Run,
        varied: Sequence[Varied],
        prepared: Callable[[Sequence[str]], Run],
    ) -> None:
        """
        Args:
            run: the training as it stands.
            varied: the options of which each trial draws a value.
            prepared: the run of a command line.

        Raises:
            StudyUnavailable, OtherStudy: see `training.tune.tune`.
        """
        self._options, self._varied, self._prepared = options, varied, prepared
        self._run = run
        self._asked_to_stop: Callable[[], int] = lambda: 0
        with self._alone():  # databases are not made for two that make their tables at once
            self._study = opened(options, run)
            self._check_same_search()

    def complete(self) -> None:
        """Run trials until there are as many as wanted; then publish the best, unless others still run.

        Raises:
            NothingFound, StudyUnavailable, Interrupted: see `training.tune.tune`.
        """
        try:
            with counted_signals() as self._asked_to_stop:
                self._take_trials()
                stopped = self._asked_to_stop() > 0
            if stopped and self._left() > 0:
                raise Interrupted(f"stopped after {len(self._ended())} trials; the same command goes on")
            self._finish()
        except (OptunaError, SQLAlchemyError) as error:
            raise StudyUnavailable(f"the storage of the search failed: {first_line(error)}") from error

    def _take_trials(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            fail_stale_trials(self._study)
            if self._left() > 0:
                self._study.optimize(self._objective, catch=(Exception,), callbacks=[self._after_trial])

    def _after_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if self._left() <= 0 or self._asked_to_stop():
            study.stop()

    def _objective(self, trial: Trial) -> float:
        try:
            return self._score(trial)
        except TrialPruned:
            self._tell(trial, "pruned")
            raise
        except Interrupted:
            trial.set_user_attr("reason", INTERRUPTED)
            again(self._study, trial)
            raise
        except Exception as error:
            told = isinstance(error, BmamlError)
            reason = str(error) if told else f"{type(error).__name__}: {first_line(error)}"
            trial.set_user_attr("reason", reason)
            self._tell(trial, f"failed: {reason}")
            raise

    def _score(self, trial: Trial) -> float:
        """The validation NLL of the parameters that a trial keeps."""
        words = self._drawn(trial)
        trial.set_user_attr("options", words)
        run = self._prepared_again(words)
        self._check_same_tasks(run)
        folder, device = self._folder(trial.number), device_of(run.options.device)
        with tracked(f"{run.config.name}, trial {trial.number}", run.config) as tracking:

            def on_look(step: int, loss: float, nll: float) -> None:
                if tracking is not None:
                    tracking.look(step, loss, nll)
                trial.report(nll, step)
                if trial.should_prune():
                    raise TrialPruned

            trained = train_run(
                run, folder, device, on_look=on_look, stopped=lambda: self._asked_to_stop() > 1
            )
        (folder / CHECKPOINT).unlink(missing_ok=True)
        if not math.isfinite(trained.nll):
            raise NothingFound(f"the validation NLL at step {trained.kept} is {trained.nll}")
        if trained.nll < min(self._scores(), default=math.inf):
            _save(trained, folder / RESULT)
        self._tell(trial, f"validation NLL {trained.nll:.4g} at step {trained.kept}")
        return trained.nll

    def _drawn(self, trial: Trial) -> list[str]:
        """The words that a trial adds to the command; none for the command as it stands."""
        if is_plain(trial):
            return []
        seed = np.random.SeedSequence([self._run.config.seed, trial.number]).generate_state(1)[0]
        self._study.sampler = TPESampler(seed=int(seed), multivariate=False)
        return [word for each in self._varied for word in each.words(suggested(trial, each))]

    def _prepared_again(self, words: Sequence[str]) -> Run:
        """The run with further words, without the notes that the first one printed."""
        with redirect_stderr(io.StringIO()):
            return self._prepared([*self._options.training, *words])

    def _finish(self) -> None:
        """Print the trials, and publish the best unless it is published or others still run."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if running:
            print(
                f"{len(running)} trial(s) still run in other workers; the last one publishes the best. If "
                f"they were lost, repeat the command after {SECONDS_UNTIL_LOST} seconds",
                file=sys.stderr,
            )
            return
        ended = self._ended()
        if not self._scores():
            reasons = [trial.user_attrs["reason"] for trial in ended if "reason" in trial.user_attrs]
            raise NothingFound(f"none of {len(ended)} trials came to its end; the first: {reasons[0]}")
        with self._alone():
            self._publish_best(ended)

    def _publish_best(self, ended: Sequence[FrozenTrial]) -> None:
        best = self._study.best_trial
        words = best.user_attrs["options"]
        told = " ".join(words) or "the command as it stands"
        print(_summary(ended, best.number, told))
        published = self._study.user_attrs.get("published")
        if published is not None and published["trial"] == best.number:
            print(f"trial {best.number} is published as version {published['version']}", file=sys.stderr)
            return
        path = self._folder(best.number) / RESULT
        if not path.exists():
            raise StudyUnavailable(
                f"the parameters of trial {best.number} are not at {path}: all workers need the same --runs. "
                f"Train it again with the options {told}"
            )
        run = self._prepared_again(words)
        self._check_same_tasks(run)
        note = f"Chosen among {len(ended)} trials by the validation tasks: {told}."
        options = replace(run.options, note=" ".join(filter(None, (run.options.note, note))))
        choices = sum(len(trial.intermediate_values) for trial in ended)
        trained = _saved(path)
        with tracked(run.config.name, run.config) as tracking:
            model = publish_run(replace(run, options=options), trained, choices)
            if tracking is not None:
                for look in trained.history:
                    tracking.look(*look)
                tracking.published(model, version_folder(run.options.store, model))
        self._study.set_user_attr("published", {"trial": best.number, "version": model.manifest.version})

    def _check_same_search(self) -> None:
        """Refuse to go on with a study of other options; those of a new study are written into it."""
        own = {
            **json.loads(json.dumps(self._run.config.as_flat_data())),
            "--vary": [str(each) for each in self._varied],
            "version": __version__,
        }
        there = self._study.user_attrs.get("search")
        if there is None:
            self._study.set_user_attr("search", own)
            self._study.set_user_attr("validation", validation_moments(self._run))
            return
        for name in sorted(own.keys() | there.keys()):
            if own.get(name) != there.get(name):
                raise OtherStudy(
                    f"the search {self._run.config.name} has {name} {there.get(name)}, and this command "
                    f"{own.get(name)}: repeat its command, or give another --name or --storage"
                )
        self._check_same_tasks(self._run)

    def _check_same_tasks(self, run: Run) -> None:
        """Refuse validation tasks that other trials were not scored on."""
        there, own = self._study.user_attrs["validation"], validation_moments(run)
        same = [
            math.isclose(a, b, rel_tol=ROUNDING, abs_tol=ROUNDING) for a, b in zip(there, own, strict=False)
        ]
        if len(there) != len(own) or not all(same):
            raise OtherStudy(
                "the validation tasks are others than those of the first trial, and their NLL could not be "
                "compared: repeat the data and the options that decide them"
            )

    def _ended(self) -> list[FrozenTrial]:
        """The trials that came to an end of their own, with a score, pruned or failed."""
        return [trial for trial in self._trials() if trial.state.is_finished() and not is_lost(trial)]

    def _left(self) -> int:
        """The trials that are still to begin."""
        begun = [trial for trial in self._trials() if trial.state == TrialState.RUNNING]
        return self._options.trials - len(begun) - len(self._ended())

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _scores(self) -> list[float]:
        return [
            trial.value
            for trial in self._trials()
            if trial.state == TrialState.COMPLETE and trial.value is not None
        ]

    def _alone(self) -> AbstractContextManager[None]:
        """Keep the other workers of the search waiting."""
        return locked(self._run.folder / "trials", wait=True)

    def _folder(self, trial: int) -> Path:
        return self._run.folder / "trials" / str(trial)

    def _tell(self, trial: Trial, outcome: str) -> None:
        words = " ".join(trial.user_attrs.get("options", [])) or "as it stands"
        print(f"trial {trial.number} ({words}): {outcome}", file=sys.stderr, flush=True)


def validation_moments(run: Run) -> list[float]:
    """Moments that tell other validation tasks apart; none for worlds, whose options are fixed."""
    return [] if isinstance(run.tasks, WorldTasks) else moments(run.tasks.validation())


def _summary(ended: Sequence[FrozenTrial], best: int, told: str) -> str:
    """The trials in two sentences."""
    counts = {state: sum(trial.state == state for trial in ended) for state in TrialState}
    plain = next((trial.value for trial in ended if is_plain(trial)), None)
    beside = "" if plain is None else f"; {plain:.4g} as the command stands"
    value = next(trial.value for trial in ended if trial.number == best)
    return (
        f"{len(ended)} trials: {counts[TrialState.COMPLETE]} whole, {counts[TrialState.PRUNED]} pruned, "
        f"{counts[TrialState.FAIL]} failed\n"
        f"best: trial {best}, validation NLL {value:.4g}{beside}: {told}"
    )


def _save(trained: TrainingResult, path: Path) -> None:
    draft = path.with_suffix(".new")
    torch.save(vars(trained), draft)
    draft.rename(path)


def _saved(path: Path) -> TrainingResult:
    return TrainingResult(**torch.load(path, weights_only=True))
