"""Creates the sampler and the pruner of a study from their configs."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, BruteForceSampler, CmaEsSampler, GridSampler, QMCSampler

from nntrain.config.instantiate import Node, instantiate, target_of
from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.spec.space import Space, grid_values
from nntrain.sweeps.study.cmaes import Cmaes
from nntrain.sweeps.study.exhaustive import BruteForce, Grid

SAMPLER, PRUNER = "hydra.sweeper.sampler", "hydra.sweeper.pruner"


def make_sampler(plan: SweepPlan, offset: int = 0) -> BaseSampler:
    """Creates the sampler of a plan.

    Args:
        plan: the plan of the sweep.
        offset: added to the seed. QMC ignores the offset because all workers share one sequence.

    Raises:
        ConfigError: if the sampler is unknown, not trusted, or cannot sample this space.
    """
    node = dict(plan.sampler)
    cls = target_of(node, SAMPLER, plan.trusted)
    if _is_a(cls, CmaEsSampler):
        _check_cmaes(plan)
    if _is_a(cls, GridSampler):
        node["search_space"] = _grid(plan.space)
    elif _is_a(cls, BruteForceSampler):
        _grid(plan.space)
    if type(node.get("seed")) is int and not _is_a(cls, QMCSampler):
        node["seed"] += offset
    if cls in (GridSampler, BruteForceSampler, CmaEsSampler):
        return _own(cls, node, plan)
    made = _made(node, SAMPLER, plan)
    if not isinstance(made, BaseSampler):
        raise _wrong_kind(plan.sampler, SAMPLER, made, "sampler")
    return made


def _own(cls: type, node: Node, plan: SweepPlan) -> BaseSampler:
    """Creates nntrain's variant of one of Optuna's samplers."""
    arguments = _made({**node, "_partial_": True}, SAMPLER, plan).keywords
    with _experimental():
        if cls is GridSampler:
            return Grid(**arguments)
        if cls is CmaEsSampler:
            return Cmaes(**arguments)
        return BruteForce(plan.space.distributions, **arguments)


def make_pruner(plan: SweepPlan) -> BasePruner:
    """Creates the pruner of a plan.

    Raises:
        ConfigError: if the pruner is unknown, not trusted, or does not accept its arguments.
    """
    made = _made(plan.pruner, PRUNER, plan)
    if not isinstance(made, BasePruner):
        raise _wrong_kind(plan.pruner, PRUNER, made, "pruner")
    return made


def _is_a(cls: Any, base: type) -> bool:
    return isinstance(cls, type) and issubclass(cls, base)


def _made(node: Node, key: str, plan: SweepPlan) -> Any:
    with _experimental():
        return instantiate(node, key, plan.trusted)


@contextmanager
def _experimental() -> Iterator[None]:
    """Hides warnings: many of Optuna's established samplers are still marked as experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def _wrong_kind(node: Node, key: str, made: Any, kind: str) -> SweepError:
    return SweepError(
        f"{key}._target_={node['_target_']} creates an object of type {type(made).__name__}, "
        f"expected an Optuna {kind}: choose a config with hydra/sweeper/{kind}=NAME."
    )


def _check_cmaes(plan: SweepPlan) -> None:
    if len(plan.directions) > 1:
        raise SweepError(
            "CMA-ES supports only one objective: choose another hydra/sweeper/sampler, such as "
            "nsgaii or tpe."
        )
    if importlib.util.find_spec("cmaes") is None:
        raise SweepError("hydra/sweeper/sampler=cmaes needs the module cmaes: pip install cmaes.")


def _grid(space: Space) -> dict[str, list[Any]]:
    """Returns all values of each parameter.

    Raises:
        SweepError: if a parameter has infinitely many values.
    """
    values = {name: grid_values(one) for name, one in space.distributions.items()}
    for name, found in values.items():
        if found is None:
            raise SweepError(
                f"{name} has infinitely many values, but a grid search must try all values: use "
                "choice(...) or range(...)."
            )
    return {name: found for name, found in values.items() if found is not None}
