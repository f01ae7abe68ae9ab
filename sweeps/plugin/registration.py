"""Registers the sweeper with Hydra in an editable install."""

from __future__ import annotations


def register() -> None:
    """Registers `hydra/sweeper=nntrain` with Hydra; required in an editable install of nntrain.

    In other installs, Hydra discovers the sweeper automatically and this function has no effect.
    """
    from hydra.core.plugins import Plugins

    # scan for plugins before the imports below, because the scan would execute the modules again
    plugins = Plugins.instance()
    from hydra_plugins.nntrain_sweeper.search_path import NntrainSearchPath
    from hydra_plugins.nntrain_sweeper.sweeper import NntrainSweeper

    plugins.register(NntrainSweeper)
    plugins.register(NntrainSearchPath)
