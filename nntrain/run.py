"""`python -m nntrain.run`: the composition root, which makes all parts of a configured run and puts them together."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from nntrain.callback import Callback, Purpose
from nntrain.config.build import make_all, make_learner, resolve
from nntrain.config.command_line import CONFIG_NAME, CONFIG_PATH, check_command_line
from nntrain.config.errors import ConfigError
from nntrain.config.flatten import flatten
from nntrain.config.redact import Redactor
from nntrain.config.resume import check_resume
from nntrain.config.run_folder import remove_if_empty, write_config
from nntrain.config.signature import nearest
from nntrain.ending import end_at_once, end_process
from nntrain.events import FitResult, StopReason, exit_code
from nntrain.integrations.adapter import Figures, TrackerCallback
from nntrain.integrations.base import ModelFile, RunInfo, Tracker
from nntrain.integrations.console import CONSOLE_LOG, ConsoleLog
from nntrain.integrations.delivery import FOLDER as DELIVERY
from nntrain.integrations.delivery import whereabouts
from nntrain.integrations.figures import FIGURES
from nntrain.integrations.journal import JOURNAL
from nntrain.integrations.launch import INTERRUPTED_TIMEOUT_S, Offline, Shipper, shared_shipper, tell_backlog
from nntrain.integrations.provenance import provenance_tags
from nntrain.learner import Learner
from nntrain.preflight import TIMES, check_first_batch, check_monitors
from nntrain.rng import seed_everything
from nntrain.sweeps import PruningCallback, register
from nntrain.sweeps.current import TRACKED_RUN, Running, running

if TYPE_CHECKING:
    from optuna import Trial

STARTED = time.time()

DELIVERY_KEYS = ("finish_timeout_s", "offline")
"""The keys of the group `tracker` that are no trackers."""


def check_delivery(cfg: Mapping[str, Any]) -> None:
    """Checks the keys that stand beside the trackers, before anything is trained."""
    for key in DELIVERY_KEYS:
        if key not in cfg:
            raise ConfigError(f"tracker.{key} is gone from the configuration: leave out '~tracker.{key}'.")
    for key, value in cfg.items():
        if key not in DELIVERY_KEYS and not (value is None or isinstance(value, Mapping)):
            raise ConfigError(f"tracker.{key}={value} is no key of the trackers': {nearest(key, DELIVERY_KEYS)}")
    timeout_s, offline = cfg["finish_timeout_s"], cfg["offline"]
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not timeout_s >= 0:
        raise ConfigError(f"tracker.finish_timeout_s={timeout_s} is no time to wait: give seconds, 0 or more.")
    if not isinstance(offline, bool):
        raise ConfigError(f"tracker.offline={offline} is neither true nor false: give one of them.")


def make_trackers(cfg: Mapping[str, Any]) -> dict[str, Tracker]:
    """The trackers of the configuration, by name: their settings only, for it is the shipper that uses them."""
    nodes = {name: node for name, node in cfg.items() if isinstance(node, Mapping)}
    made = make_all(nodes, "tracker")
    for name, tracker in made.items():
        if not isinstance(tracker, Tracker):
            raise ConfigError(f"tracker.{name} makes {type(tracker).__name__}, which is no nntrain.integrations.base.Tracker.")
    return made


def make_shipper(cfg: Mapping[str, Any], made: Mapping[str, Tracker], trusted: Sequence[str]) -> Shipper:
    """What delivers: the process's own shipper, started at once so that it imports while data is loaded."""
    if cfg["offline"]:
        return Offline()
    shipper = shared_shipper()
    shipper.finish_timeout_s = cfg["finish_timeout_s"]
    if made:
        shipper.start(made, trusted)
    return shipper


def tracking(
    cfg: Mapping[str, Any], folder: Path, info: RunInfo, redactor: Redactor, figures: Figures
) -> list[TrackerCallback]:
    """The callback that records the run; none if there is no tracker."""
    check_delivery(cfg["tracker"])
    trusted = cfg["trusted_targets"]
    made = make_trackers(cfg["tracker"])
    shipper = make_shipper(cfg["tracker"], made, trusted)
    best = ModelFile(folder / "best.pt", "best.pt", ("best", "latest"), cfg["model"], trusted)
    options = {"shipper": shipper, "trusted": trusted, "redactor": redactor, "figures": figures, "models": [best]}
    return [TrackerCallback(made, folder, info, logs=[folder / CONSOLE_LOG], **options)] if made else []


def in_folder(params: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The params with the run's own folder as `.`: its name differs in every run, and tells nothing when runs are compared."""
    return {key: value.replace(str(folder), ".") if isinstance(value, str) else value for key, value in params.items()}


def objectives(objective: str | Sequence[str] | None) -> list[str]:
    """The names of the metrics to optimise: one, several, or none."""
    return [] if objective is None else [objective] if isinstance(objective, str) else list(objective)


def check_objective(objective: str | Sequence[str] | None, recorded: list[str]) -> None:
    """Checks that what is optimised is going to be recorded, before anything is trained for it."""
    for name in objectives(objective):
        if name not in (*recorded, *TIMES):
            known = ", ".join([*recorded, *TIMES])
            raise ConfigError(f"objective={name} is not going to be recorded: set it to one of {known}, or to null.")


def objective_value(objective: str | Sequence[str] | None, result: FitResult) -> float | list[float] | None:
    """What the fit gives a sweep to optimise: a value, or one for each objective; nothing if one was not reached."""
    values = [result.metrics.get(name) for name in objectives(objective)]
    found = [value for value in values if value is not None]
    if not found or len(found) < len(values):
        return None
    return found[0] if isinstance(objective, str) else found


def final_table(result: FitResult) -> str:
    """How the fit ended and the last row of metrics, a line each."""
    ended = f"{result.reason} after {result.n_epoch} epoch{'s' if result.n_epoch != 1 else ''}"
    ended += f": {result.message}" if result.message else ""
    rows = [(name, f"{value:.6g}") for name, value in result.metrics.items() if name.startswith(("train/", "valid/"))]
    return "\n".join(f"{name + ':':<17}{value}" for name, value in [("outcome", ended), *rows])


def trial_info(trial: Running | None) -> dict[str, Any]:
    """What a trial's run says of its study: the tags, and the run below which it is shown."""
    if trial is None:
        return {"tags": {}}
    tags = {"nntrain.study": trial.study_name, "nntrain.trial": str(trial.trial.number)}
    return {"name": f"trial {trial.trial.number}", "tags": tags, "parent": trial.study, "group": trial.study_name}


class TrialRun(Callback):
    """Tells a trial which run it is tracked as, once that has begun, so that a trial whose process dies has told it."""

    order: ClassVar[int] = 100
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})
    only_watches: ClassVar[bool] = True

    def __init__(self, trial: Trial, tracked: TrackerCallback) -> None:
        self.trial, self.tracked = trial, tracked

    def before_fit(self, learn: Learner) -> None:
        """Notes the run's name for machines."""
        self.trial.set_user_attr(TRACKED_RUN, self.tracked.uid)


def resumed_from(plain: Mapping[str, Any], trial: Running | None) -> str | None:
    """Where the run goes on from: what the configuration says, or the checkpoint of the trial that was interrupted."""
    if plain["resume"] is not None or trial is None or trial.resume_from is None:
        return cast("str | None", plain["resume"])
    has_checkpoint = "checkpoint" in (plain["callbacks"] or {}) and (trial.resume_from / "last.ckpt").is_file()
    return str(trial.resume_from) if has_checkpoint else None


def train(cfg: DictConfig, folder: Path, typed: Sequence[str]) -> tuple[FitResult, float | list[float] | None]:
    """Seeds, makes everything, checks the first batch, fits, and says where the run is."""
    plain, trial = resolve(cfg), running()
    redactor = Redactor(plain["redact"], plain, os.environ)
    overrides = [redactor.override(override) for override in typed]
    seed_everything(plain["seed"])
    texts = {"config.yaml": OmegaConf.to_yaml(redactor.value(plain)), "overrides.yaml": OmegaConf.to_yaml(overrides)}
    of_study = trial_info(trial)
    tags = {**provenance_tags(redactor), **of_study.pop("tags")}
    info = RunInfo(params=in_folder(flatten(redactor.value(plain)), folder), tags=tags, texts=texts, **of_study)
    figures = FIGURES if trial is None else {}  # a second or two, in which the next trial could be under way
    trackers = tracking(plain, folder, info, redactor, figures)
    of_trial = [] if trial is None else [PruningCallback(), *(TrialRun(trial.trial, tracked) for tracked in trackers)]
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


def farewell(folder: Path, result: FitResult) -> None:
    """Waits for the trackers to get what they have not yet, and says where the run is and how to go on."""
    interrupted = result.reason is StopReason.INTERRUPTED
    tell_backlog(shared_shipper().finish(INTERRUPTED_TIMEOUT_S if interrupted else None))
    for where in whereabouts(folder / JOURNAL):
        print(where)
    print(f"files:           {folder}")
    if (folder / JOURNAL).is_file() and not (folder / DELIVERY).is_dir():
        print(f"deliver it:      python -m nntrain.sync {folder}")
    if interrupted and (folder / "last.ckpt").is_file():
        print(f"go on:           python -m nntrain.run resume={folder}")


def job(cfg: DictConfig) -> float | list[float] | None:
    """One run of Hydra's: tells mistakes in one sentence, and ends the process with the outcome's exit code.

    In a trial of a sweep it is the worker that tells mistakes, and that goes on with the next trial.
    """
    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    try:
        result, value = train(cfg, folder, hydra_cfg.overrides.task)
    except ConfigError as err:
        if running() is not None:
            raise
        remove_if_empty(folder, STARTED)
        raise SystemExit(tell(err)) from err
    is_alone = hydra_cfg.mode is not RunMode.MULTIRUN or result.reason is StopReason.INTERRUPTED
    ends_the_process = is_alone and running() is None
    if ends_the_process:
        farewell(folder, result)
    if ends_the_process and (code := exit_code(result.reason, result.signum)):
        sys.exit(code)
    return value


def tell(err: ConfigError) -> int:
    """Prints a mistake and returns the exit code for it; with `HYDRA_FULL_ERROR=1` raises it instead."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise err
    print(f"nntrain: {err}", file=sys.stderr)
    return 1


def main() -> NoReturn:
    """The command line; ends the process."""
    end_process(command())


def command() -> int:
    """Runs the command line; returns the exit code."""
    register()  # an editable install hides the sweeper from Hydra
    try:
        sys.argv[1:] = check_command_line(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=CONFIG_NAME)(job)()
    except ConfigError as err:
        return tell(err)
    except KeyboardInterrupt:
        shared_shipper().leave()
        print("nntrain: interrupted", file=sys.stderr)
        end_at_once(130)
    except SystemExit as err:
        if isinstance(err.code, int):
            return err.code
        raise
    return 0


if __name__ == "__main__":
    from nntrain import run  # by its own name, so that workers of a sweep can be told what to run

    run.main()
