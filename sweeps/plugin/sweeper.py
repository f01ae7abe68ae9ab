"""The sweeper class for `hydra/sweeper=nntrain`."""

from __future__ import annotations

import os
import sys
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class NntrainSweeper(Sweeper):
    """Runs sweeps with Optuna: workers run the trials of a study and prune unpromising trials.

    The arguments are the fields of `SweeperConfig`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.task_function: TaskFunction | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Stores the arguments, which Hydra passes before the sweep."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the sweep; prints configuration errors without a traceback and exits with code 1."""
        try:
            from nntrain.config.door import guard
            from nntrain.config.errors import ConfigError
            from nntrain.core.streams import open_streams
            from nntrain.sweeps.sweep import make_sweep
        except ModuleNotFoundError as err:
            print(
                f"nntrain: sweeps need the module {err.name}: pip install 'nntrain[sweeps]'.",
                file=sys.stderr,
            )
            raise SystemExit(1) from err
        open_streams()
        guard()
        assert self.config is not None
        assert self.hydra_context is not None
        assert self.task_function is not None
        try:
            sweep = make_sweep(
                self.settings, arguments, self.task_function, self.hydra_context, self.config
            )
            code = sweep.run()
        except ConfigError as err:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"nntrain: {err}", file=sys.stderr)
            raise SystemExit(1) from err
        if code:
            raise SystemExit(code)
        return None
