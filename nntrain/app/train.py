"""One configured run: makes its parts, checks the first batch, and fits."""

from __future__ import annotations

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
from nntrain.app.run_folder import write_config
from nntrain.app.tracking import tracking
from nntrain.app.trial import TrialRun, resumed_from, trial_info
from nntrain.config.flatten import flatten
from nntrain.config.redact import Redactor
from nntrain.core.rng import seed_everything
from nntrain.integrations.capture.console import CONSOLE_LOG, ConsoleLog
from nntrain.integrations.capture.provenance import provenance_tags
from nntrain.integrations.figures import FIGURES
from nntrain.integrations.tracker import RunInfo
from nntrain.learner import Learner
from nntrain.result import FitResult
from nntrain.sweeps import PruningCallback
from nntrain.sweeps.context import running


def in_folder(params: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The params with the run's own folder as `.`: its name differs in every run, and tells nothing when runs are compared."""
    return {
        key: value.replace(str(folder), ".") if isinstance(value, str) else value
        for key, value in params.items()
    }


def final_table(result: FitResult) -> str:
    """How the fit ended and the last row of metrics, a line each."""
    ended = f"{result.reason} after {result.n_epoch} epoch{'s' if result.n_epoch != 1 else ''}"
    ended += f": {result.message}" if result.message else ""
    rows = [
        (name, f"{value:.6g}")
        for name, value in result.metrics.items()
        if name.startswith(("train/", "valid/"))
    ]
    return "\n".join(f"{name + ':':<17}{value}" for name, value in [("outcome", ended), *rows])


def train(
    cfg: DictConfig, folder: Path, typed: Sequence[str]
) -> tuple[FitResult, float | list[float] | None]:
    """Seeds, makes everything, checks the first batch, fits, and says where the run is."""
    plain, trial = resolve(cfg), running()
    redactor = Redactor(plain["redact"], plain, os.environ)
    overrides = [redactor.override(override) for override in typed]
    seed_everything(plain["seed"])
    texts = {
        "config.yaml": OmegaConf.to_yaml(redactor.value(plain)),
        "overrides.yaml": OmegaConf.to_yaml(overrides),
    }
    of_study = trial_info(trial)
    tags = {**provenance_tags(redactor), **of_study.pop("tags")}
    info = RunInfo(
        params=in_folder(flatten(redactor.value(plain)), folder), tags=tags, texts=texts, **of_study
    )
    figures = (
        FIGURES if trial is None else {}
    )  # a second or two, in which the next trial could be under way
    trackers = tracking(plain, folder, info, redactor, figures)
    of_trial = (
        []
        if trial is None
        else [PruningCallback(), *(TrialRun(trial.trial, tracked) for tracked in trackers)]
    )
    learn = make_learner(plain, [*trackers, *of_trial])
    recorded = check_first_batch(learn)
    check_objective(plain["objective"], recorded)
    check_monitors(learn, recorded)
    if (resume := resumed_from(plain, trial)) is not None:
        check_resume(Path(resume), cfg, learn, redactor)
    write_config(folder, cfg, overrides, redactor)
    with ConsoleLog(folder / CONSOLE_LOG, redactor.text):
        result = fit(learn, plain["n_epoch"], redactor)
        print(final_table(result))
    return result, objective_value(plain["objective"], result)


def fit(learn: Learner, n_epoch: int, redactor: Redactor) -> FitResult:
    """Fits; an error ends the process here, since Hydra would print it and the command line with all secrets."""
    try:
        return learn.fit(n_epoch)
    except Exception as err:
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or HydraConfig.get().mode is RunMode.MULTIRUN:
            raise
        print(redactor.text("".join(traceback.format_exception(err))), end="", file=sys.stderr)
        raise SystemExit(1) from err
