"""Adds the config groups of samplers and pruners to Hydra's search path."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra_plugins.nntrain_sweeper.config import CONF, PROVIDER


class NntrainSearchPath(SearchPathPlugin):
    """Adds the folder with the configs of samplers and pruners to Hydra's search path.

    The configs are not in Hydra's `ConfigStore`, because Hydra copies the whole store for each
    config group that it lists. That would double the run time of `--help`.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Appends the folder to the search path, after the application's folders."""
        search_path.append(PROVIDER, f"file://{CONF}")
