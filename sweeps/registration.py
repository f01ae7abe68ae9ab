"""Making the sweeper known to Hydra where Hydra does not see it."""

from __future__ import annotations


def register() -> None:
    """Makes `hydra/sweeper=nntrain` known to Hydra, for an application that runs from an editable install of nntrain.

    In any other install Hydra finds the sweeper by itself, and this changes nothing.
    """
    from hydra.core.plugins import Plugins

    known = Plugins.instance()  # first, for Hydra imports anew what it finds
    from hydra_plugins.nntrain_sweeper import NntrainSweeper

    known.register(NntrainSweeper)
