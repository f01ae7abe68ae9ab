"""The task function that Hydra calls for each run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from nntrain.app.command_line import STARTED
from nntrain.config.door import hide_secrets
from nntrain.config.errors import ConfigError
from nntrain.result import StopReason, exit_code
from nntrain.sweeps.context import trial_context


@dataclass(frozen=True)
class Job:
    """The task function of a command.

    Args:
        trusted: packages that the user trusts; a sweep passes them to its workers in this object.
    """

    trusted: tuple[str, ...] = ()

    def __call__(self, cfg: DictConfig) -> float | list[float] | None:
        """Trains one configuration; see `job`."""
        return job(cfg, self.trusted)


def job(cfg: DictConfig, trusted: Sequence[str] = ()) -> float | list[float] | None:
    """Trains one configuration and exits the process if the run failed or was interrupted.

    A configuration mistake is printed in one sentence. In a sweep, this function raises the error
    instead of printing it and exiting, and the worker continues with the next trial.

    Args:
        cfg: the configuration. Its `trusted_targets` are data and grant nothing.
        trusted: packages that the user trusts.

    Returns:
        The value of the objective.
    """
    # imported here because these modules load torch and numpy, which --help does not need
    from nntrain.app.farewell import farewell
    from nntrain.app.run_folder import remove_if_empty
    from nntrain.app.train import train

    hydra_cfg = HydraConfig.get()
    if hydra_cfg.mode is RunMode.MULTIRUN:
        hide_secrets(Path(hydra_cfg.sweep.dir) / "multirun.yaml")
    folder = Path(hydra_cfg.runtime.output_dir)
    try:
        result, value = train(cfg, folder, _typed(hydra_cfg.overrides.task), trusted)
    except ConfigError as err:
        if trial_context() is not None:
            raise
        remove_if_empty(folder, STARTED)
        raise SystemExit(tell(err)) from err
    is_alone = hydra_cfg.mode is not RunMode.MULTIRUN or result.reason is StopReason.INTERRUPTED
    ends_the_process = is_alone and trial_context() is None
    if ends_the_process:
        farewell(folder, result)
    if ends_the_process and (code := exit_code(result.reason, result.signum)):
        sys.exit(code)
    return value


def _typed(overrides: Sequence[str]) -> list[str]:
    """Returns the overrides as they were typed, because an item with `${...}` would be resolved."""
    plain = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(plain, list)
    return [str(one) for one in plain]


def tell(err: ConfigError) -> int:
    """Prints a configuration mistake and returns exit code 1; raises if `HYDRA_FULL_ERROR=1`."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise err
    print(f"nntrain: {err}", file=sys.stderr)
    return 1
