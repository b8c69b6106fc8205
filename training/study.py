"""The study of Optuna that holds a search: its storage, its trials, and the values that they draw."""

import warnings

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.pruners import MedianPruner, NopPruner
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from bmaml.errors import BmamlError
from training.run import Run
from training.tune import SearchOptions, default_storage
from training.varied import Range, Varied

SECONDS_BETWEEN_HEARTBEATS, SECONDS_UNTIL_LOST = 30, 120
"""A worker's sign of life, and the silence after which its trial begins anew."""
MIN_TRIALS_TO_PRUNE = 5
UNPRUNED_SHARE = 3
"""No trial is pruned in the first part of its steps, one in so many."""
INTERRUPTED = "interrupted"


class StudyUnavailable(BmamlError):
    """The storage of a search cannot be opened or used."""


def opened(options: SearchOptions, run: Run) -> optuna.Study:
    """The study of a run's name, made where it is new."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    run.folder.mkdir(parents=True, exist_ok=True)
    steps = run.config.optimisation.meta_steps
    pruner = MedianPruner(MIN_TRIALS_TO_PRUNE, steps // UNPRUNED_SHARE) if options.prune else NopPruner()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = RDBStorage(
                options.storage or default_storage(run.folder),
                heartbeat_interval=SECONDS_BETWEEN_HEARTBEATS,
                grace_period=SECONDS_UNTIL_LOST,
                heartbeat_stale_trial_callback=again,
            )
        return optuna.create_study(
            storage=storage, pruner=pruner, study_name=run.config.name, load_if_exists=True
        )
    except (OptunaError, SQLAlchemyError, ImportError, ValueError) as error:
        raise StudyUnavailable(f"--storage cannot be opened: {first_line(error)}") from error


def again(study: optuna.Study, trial: Trial | FrozenTrial) -> None:
    """Have a trial that was cut short begin anew, with the same values."""
    study.enqueue_trial(trial.params, user_attrs={"plain": is_plain(trial)})


def is_plain(trial: Trial | FrozenTrial) -> bool:
    return bool(trial.user_attrs.get("plain", trial.number == 0))


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial ended with its worker, and begins anew under another number."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get("reason", INTERRUPTED) == INTERRUPTED


def suggested(trial: Trial, each: Varied) -> float | str:
    values = each.values
    if not isinstance(values, Range):
        return str(trial.suggest_categorical(each.option, values))
    if values.whole:
        return trial.suggest_int(each.option, int(values.low), int(values.high), log=values.log)
    return trial.suggest_float(each.option, values.low, values.high, log=values.log)


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
