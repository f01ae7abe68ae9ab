"""Trains one configuration."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from nntrain.app.build import make_learner, resolve
from nntrain.app.objectives import check_objective, objective_value
from nntrain.app.preflight import check_first_batch, check_monitors
from nntrain.app.resume import check_resume
from nntrain.app.run_folder import folder_of, write_config
from nntrain.app.tracking import tracking
from nntrain.app.trial import TrialRun, resume_trial, trial_info
from nntrain.checkpoint import CheckpointError
from nntrain.config.errors import ConfigError
from nntrain.config.flatten import flatten
from nntrain.config.redact import Redactor
from nntrain.config.redact import learn as learn_secrets
from nntrain.core.callback import Callback
from nntrain.core.rng import seed_everything
from nntrain.integrations.callback import TrackerCallback
from nntrain.integrations.capture.console import CONSOLE_LOG, ConsoleLog
from nntrain.integrations.capture.provenance import provenance_tags
from nntrain.integrations.figures import FIGURES
from nntrain.integrations.journal.records import JournalError
from nntrain.integrations.journal.writer import JournalInUseError
from nntrain.integrations.shipping.lock import DeliveredByAnotherError
from nntrain.integrations.tracker import RunInfo
from nntrain.learner import Learner
from nntrain.result import FitResult
from nntrain.sweeps.context import TrialContext, trial_context
from nntrain.sweeps.pruning import PruningCallback

_OF_THE_USER = (
    CheckpointError,
    ConfigError,
    DeliveredByAnotherError,
    JournalError,
    JournalInUseError,
)


def in_folder(params: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Replaces the run folder in params with `.`, so that identical runs have identical params."""
    return {
        key: value.replace(str(folder), ".") if isinstance(value, str) else value
        for key, value in params.items()
    }


def final_table(result: FitResult) -> str:
    """Formats the outcome and the final metrics of a fit, one per line."""
    ended = f"{result.reason} after {result.n_epoch} epoch{'s' if result.n_epoch != 1 else ''}"
    ended += f": {result.message}" if result.message else ""
    rows = [
        (name, f"{value:.6g}")
        for name, value in result.metrics.items()
        if name.startswith(("train/", "valid/"))
    ]
    return "\n".join(f"{name + ':':<17}{value}" for name, value in [("outcome", ended), *rows])


def train(
    cfg: DictConfig, folder: Path, typed: Sequence[str], trusted: Sequence[str] = ()
) -> tuple[FitResult, float | list[float] | None]:
    """Trains one configuration.

    Args:
        cfg: the configuration.
        folder: the folder of the run.
        typed: the overrides from the command line.
        trusted: packages that the user trusts.

    Returns:
        The result of the fit, and the value of the objective.

    Raises:
        ConfigError: for the first mistake, before training starts.
    """
    if (trial := trial_context()) is not None:
        resume_trial(cfg, trial)
    cwd = HydraConfig.get().runtime.cwd
    if cfg.resume is not None and Path.cwd() != Path(cwd):
        cfg.resume = os.path.join(cwd, cfg.resume)
    # with hydra.job.chdir=true, relative paths still refer to the folder of the command
    with contextlib.chdir(cwd):
        learn, plain, redactor = _prepare(cfg, folder, typed, trusted, trial)
    with ConsoleLog(folder / CONSOLE_LOG, redactor.text):
        result = fit(learn, plain["n_epoch"], redactor)
        print(final_table(result))
    return result, objective_value(plain["objective"], result)


def _prepare(
    cfg: DictConfig,
    folder: Path,
    typed: Sequence[str],
    trusted: Sequence[str],
    trial: TrialContext | None,
) -> tuple[Learner, dict[str, Any], Redactor]:
    """Checks the configuration, creates the Learner, and writes `.hydra`."""
    plain = resolve(cfg, trusted)
    redactor = learn_secrets(Redactor(plain["redact"], plain, os.environ))
    overrides = [redactor.override(override) for override in typed]
    seed_everything(plain["seed"])
    info = _run_info(plain, folder, overrides, redactor, trial)
    # trials skip figures: plotting takes a second or two, which would delay the next trial
    figures = FIGURES if trial is None else {}
    trackers = tracking(plain, folder, info, redactor, figures)
    learn = make_learner(plain, [*trackers, *_trial_callbacks(trial, trackers)])
    _check(learn, plain)
    resume = None if plain["resume"] is None else Path(plain["resume"])
    if resume is not None:
        check_resume(resume, cfg, learn, redactor)
    in_place = resume is not None and folder_of(resume).resolve() == folder.resolve()
    write_config(folder, cfg, overrides, redactor, replace=in_place or trial is not None)
    return learn, plain, redactor


def _run_info(
    plain: Mapping[str, Any],
    folder: Path,
    overrides: Sequence[str],
    redactor: Redactor,
    trial: TrialContext | None,
) -> RunInfo:
    safe, of_study = redactor.value(plain), trial_info(trial)
    return RunInfo(
        params=in_folder(flatten(safe), folder),
        tags={**provenance_tags(redactor), **of_study.pop("tags")},
        texts={
            "config.yaml": OmegaConf.to_yaml(safe),
            "overrides.yaml": OmegaConf.to_yaml(list(overrides)),
        },
        **of_study,
    )


def _trial_callbacks(
    trial: TrialContext | None, trackers: Sequence[TrackerCallback]
) -> list[Callback]:
    if trial is None:
        return []
    return [PruningCallback(), *(TrialRun(trial.trial, tracked) for tracked in trackers)]


def _check(learn: Learner, plain: Mapping[str, Any]) -> None:
    recorded = check_first_batch(learn)
    check_objective(plain["objective"], recorded)
    check_monitors(learn, recorded)


def fit(learn: Learner, n_epoch: int, redactor: Redactor) -> FitResult:
    """Trains the model. If training fails, prints the traceback without secrets and exits.

    In a sweep, or if `HYDRA_FULL_ERROR=1`, the exception is raised to Hydra instead.
    """
    try:
        return learn.fit(n_epoch)
    except Exception as err:
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or HydraConfig.get().mode is RunMode.MULTIRUN:
            raise
        # a full disk or another file, or another process in the same folder, so no traceback
        if isinstance(err, _OF_THE_USER):
            raise ConfigError(redactor.text(str(err))) from err
        print(redactor.text("".join(traceback.format_exception(err))), end="", file=sys.stderr)
        raise SystemExit(1) from err
