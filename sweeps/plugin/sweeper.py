"""The class that Hydra makes for `hydra/sweeper=nntrain`."""

from __future__ import annotations

import os
import sys
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class NntrainSweeper(Sweeper):
    """Sweeps with Optuna: workers take trials from a study, and trials without promise are stopped early.

    The arguments are the keys of `SweeperConfig`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.task_function: TaskFunction | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Takes what Hydra hands over."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the sweep; ends the process where something went wrong, with one sentence that says what."""
        try:
            from nntrain.sweeps.configure import make_sweep
            from nntrain.sweeps.errors import SweepError
        except ModuleNotFoundError as err:
            print(
                f"nntrain: a sweep needs the module {err.name}: pip install 'nntrain[sweeps]'.",
                file=sys.stderr,
            )
            raise SystemExit(1) from err
        assert self.config is not None
        assert self.hydra_context is not None
        assert self.task_function is not None
        try:
            sweep = make_sweep(
                self.settings, arguments, self.task_function, self.hydra_context, self.config
            )
            code = sweep.run()
        except SweepError as err:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"nntrain: {err}", file=sys.stderr)
            raise SystemExit(1) from err
        if code:
            raise SystemExit(code)
        return None
