"""`python -m nntrain.run`: the composition root, which makes all parts of a configured run and puts them together."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from nntrain.config.build import make_all, make_learner, resolve
from nntrain.config.command_line import CONFIG_NAME, CONFIG_PATH, check_command_line
from nntrain.config.errors import ConfigError
from nntrain.config.flatten import flatten
from nntrain.config.redact import redact, redact_override
from nntrain.config.resume import check_resume
from nntrain.config.run_folder import remove_if_empty, write_config
from nntrain.events import FitResult, StopReason
from nntrain.integrations.adapter import TrackerCallback
from nntrain.integrations.base import RunInfo
from nntrain.integrations.figures import FIGURES
from nntrain.integrations.provenance import provenance_tags
from nntrain.preflight import check_first_batch, check_monitors
from nntrain.rng import kept_rng, seed_everything

STARTED = time.time()

FAILED = (StopReason.DIVERGED, StopReason.ERROR, StopReason.OUT_OF_MEMORY)


def exit_code(result: FitResult) -> int:
    """The exit code of a process whose fit ended so: 0 for a result, 128 and the signal for an interruption, else 1."""
    if result.reason is StopReason.INTERRUPTED:
        return 128 + (result.signum or 2)
    return 1 if result.reason in FAILED else 0


def trackers(cfg: Mapping[str, Any], info: RunInfo, folder: Path) -> list[TrackerCallback]:
    """A callback for each tracker of the configuration."""
    made = make_all(cfg.get("tracker"), "tracker").values()
    return [TrackerCallback(tracker, info, artifacts=[folder / "best.pt"], figures=FIGURES) for tracker in made]


def check_objective(name: str | None, recorded: list[str]) -> None:
    """Checks that the objective is going to be recorded, before anything is trained for it."""
    if name is not None and name not in recorded:
        raise ConfigError(f"objective={name} is not going to be recorded: set it to one of {', '.join(recorded)}, or to null.")


def final_table(result: FitResult) -> str:
    """How the fit ended and the last row of metrics, a line each."""
    ended = f"{result.reason} after {result.n_epoch} epoch{'s' if result.n_epoch != 1 else ''}"
    ended += f": {result.message}" if result.message else ""
    rows = [(name, f"{value:.6g}") for name, value in result.metrics.items() if name.startswith(("train/", "valid/"))]
    return "\n".join(f"{name + ':':<17}{value}" for name, value in [("outcome", ended), *rows])


def train(cfg: DictConfig, folder: Path, overrides: list[str]) -> tuple[FitResult, float | None]:
    """Seeds, makes everything, checks the first batch, fits, and says where the run is."""
    plain = resolve(cfg)
    seed_everything(plain["seed"])
    texts = {"config.yaml": OmegaConf.to_yaml(redact(plain)), "overrides.yaml": OmegaConf.to_yaml(overrides)}
    info = RunInfo(flatten(redact(plain)), provenance_tags(), texts)
    tracking = trackers(plain, info, folder)
    learn = make_learner(plain, tracking)
    recorded = check_first_batch(learn)
    check_objective(plain["objective"], recorded)
    check_monitors(learn, recorded)
    if plain["resume"] is not None:
        check_resume(Path(plain["resume"]), cfg, learn)
    with kept_rng():
        for callback in tracking:
            callback.tracker.open()
    write_config(folder, cfg, overrides)
    result = learn.fit(plain["n_epoch"])
    print(final_table(result))
    for callback in tracking:
        print(callback.tracker.where())
    print(f"files:           {folder}")
    if result.reason is StopReason.INTERRUPTED and (folder / "last.ckpt").is_file():
        print(f"go on:           python -m nntrain.run resume={folder}")
    return result, result.metrics.get(plain["objective"])


def job(cfg: DictConfig) -> float | None:
    """One run of Hydra's: tells mistakes in one sentence, and ends the process with the outcome's exit code."""
    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    overrides = [redact_override(override) for override in hydra_cfg.overrides.task]
    try:
        result, value = train(cfg, folder, overrides)
    except ConfigError as err:
        remove_if_empty(folder, STARTED)
        raise SystemExit(tell(err)) from err
    ends_the_process = hydra_cfg.mode is not RunMode.MULTIRUN or result.reason is StopReason.INTERRUPTED
    if ends_the_process and (code := exit_code(result)):
        sys.exit(code)
    return value


def tell(err: ConfigError) -> int:
    """Prints a mistake and returns the exit code for it; with `HYDRA_FULL_ERROR=1` raises it instead."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise err
    print(f"nntrain: {err}", file=sys.stderr)
    return 1


def main() -> None:
    """The command line."""
    try:
        sys.argv[1:] = check_command_line(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=CONFIG_NAME)(job)()
    except ConfigError as err:
        sys.exit(tell(err))
    except KeyboardInterrupt:
        print("nntrain: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
