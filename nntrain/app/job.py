"""The job that Hydra calls for each run of the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from nntrain.app.command_line import STARTED
from nntrain.app.run_folder import remove_if_empty
from nntrain.config.errors import ConfigError
from nntrain.integrations.journal.records import JOURNAL
from nntrain.integrations.shipping.client import INTERRUPTED_TIMEOUT_S, shared_shipper, tell_backlog
from nntrain.integrations.shipping.delivery import FOLDER as DELIVERY
from nntrain.integrations.shipping.delivery import whereabouts
from nntrain.result import FitResult, StopReason, exit_code
from nntrain.sweeps.context import running


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
    from nntrain.app.train import train  # loads torch, which --help and tab completion do without

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
