"""The search path for the config groups of samplers and pruners."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra_plugins.nntrain_sweeper.config import CONF, PROVIDER


class NntrainSearchPath(SearchPathPlugin):
    """Adds the folder of samplers and pruners to Hydra's search path.

    They are not in Hydra's `ConfigStore` because Hydra copies that whole store for each config
    group that it lists, which would double the time of `--help`.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Appends the folder, after the one of the application."""
        search_path.append(PROVIDER, f"file://{CONF}")
