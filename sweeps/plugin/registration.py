"""Registers the sweeper with Hydra, where Hydra does not find it."""

from __future__ import annotations


def register() -> None:
    """Registers `hydra/sweeper=nntrain` with Hydra; needed with an editable install of nntrain.

    With any other install Hydra finds the sweeper by itself, and this function changes nothing.
    """
    from hydra.core.plugins import Plugins

    plugins = Plugins.instance()  # scans first: Hydra executes the modules that it finds again
    from hydra_plugins.nntrain_sweeper.search_path import NntrainSearchPath
    from hydra_plugins.nntrain_sweeper.sweeper import NntrainSweeper

    plugins.register(NntrainSweeper)
    plugins.register(NntrainSearchPath)
