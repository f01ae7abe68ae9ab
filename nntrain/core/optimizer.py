"""Functions to create optimizers, and to read and set their hyper-parameters."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import nn

LearningRate: TypeAlias = float | slice | Sequence[float]
"""One rate, a sequence with one rate per parameter group, or a `slice` (see `group_lrs`)."""

ParamGroups: TypeAlias = list[dict[str, Any]]
"""As in PyTorch: `[{"params": [...], "name": "body"}, {"params": [...], "name": "head"}]`."""

Splitter: TypeAlias = Callable[[nn.Module], ParamGroups]
"""Splits the parameters of a model into groups, which can have different learning rates."""


@runtime_checkable
class Optimizer(Protocol):
    """The methods that every optimizer must have. All PyTorch optimizers have them."""

    def step(self) -> Any:
        """Updates the parameters from their gradients."""

    def zero_grad(self) -> None:
        """Resets the gradients."""


class OptimizerFactory(Protocol):
    """An optimizer class or function: `torch.optim.SGD`, `partial(torch.optim.Adam, eps=1e-5)`."""

    def __call__(self, params: Any, *, lr: float) -> Optimizer:
        """Creates an optimizer for parameters or parameter groups."""


def one_group(model: nn.Module) -> ParamGroups:
    """Puts all trainable parameters into one group."""
    return [{"params": [param for param in model.parameters() if param.requires_grad]}]


def split_by_children(model: nn.Module) -> ParamGroups:
    """Creates one group per child module that has trainable parameters, named after the child."""
    groups = [
        {"params": [param for param in child.parameters() if param.requires_grad], "name": name}
        for name, child in model.named_children()
    ]
    return [group for group in groups if group["params"]]


def group_lrs(lr: LearningRate, n_group: int) -> list[float]:
    """Returns the learning rate of each parameter group.

    As in fastai, `slice(a, b)` spaces the rates geometrically from `a` (first group) to `b` (last
    group). `slice(b)` uses `b` for the last group and `b / 10` for all other groups.

    Raises:
        ValueError: if a sequence does not have one rate per group; if the end of a slice is missing
            or a bound is not greater than 0; or if a rate is negative or not finite.
    """
    rates = _rates(lr, n_group)
    for rate in rates:
        if not 0 <= rate < math.inf:
            raise ValueError(f"lr={lr} must be finite and at least 0 but contains {rate}.")
    return rates


def _rates(lr: LearningRate, n_group: int) -> list[float]:
    if isinstance(lr, slice):
        return _slice_lrs(lr, n_group)
    if isinstance(lr, Sequence):
        if len(lr) != n_group:
            raise ValueError(
                f"lr has {len(lr)} values for {n_group} parameter groups: "
                "pass one value per group, or a single value."
            )
        return [float(rate) for rate in lr]
    return [lr] * n_group


def _slice_lrs(lr: slice, n_group: int) -> list[float]:
    if any(rate is not None and rate <= 0 for rate in (lr.start, lr.stop)) or lr.stop is None:
        raise ValueError(
            f"lr={lr} must be slice(first, last) or slice(last), with rates greater than 0."
        )
    if lr.start is None or n_group == 1:
        return [lr.stop / 10] * (n_group - 1) + [lr.stop]
    ratio = lr.stop / lr.start
    return [lr.start * ratio ** (i / (n_group - 1)) for i in range(n_group)]


def make_optimizer(
    model: nn.Module,
    opt_func: OptimizerFactory,
    lr: LearningRate,
    wd: float | None,
    splitter: Splitter,
) -> Optimizer:
    """Creates an optimizer for a model.

    Args:
        model: the model.
        opt_func: creates the optimizer.
        lr: the learning rates (see `group_lrs`).
        wd: weight decay of all groups; `None` uses the optimizer's default.
        splitter: splits the parameters into groups.

    Raises:
        ValueError: if the model has no trainable parameters.
    """
    groups = splitter(model)
    if not any(group["params"] for group in groups):
        raise ValueError(
            "The model has no trainable parameters: set requires_grad on the parameters to train."
        )
    rates = group_lrs(lr, len(groups))
    opt = opt_func(
        [{**group, "lr": rate} for group, rate in zip(groups, rates, strict=True)], lr=rates[-1]
    )
    if wd is not None:
        set_hyper(opt, "weight_decay", wd)
    return opt


def param_groups(opt: Optimizer) -> ParamGroups:
    """Returns the parameter groups of an optimizer; an empty list if it does not have any."""
    groups: ParamGroups = getattr(opt, "param_groups", [])
    return groups


def group_names(opt: Optimizer) -> list[str]:
    """Returns the names of the parameter groups; the default name of a group is its index."""
    return [str(group.get("name", i)) for i, group in enumerate(param_groups(opt))]


def has_momentum(opt: Optimizer) -> bool:
    """Returns whether all parameter groups have a momentum (`momentum` or `betas`)."""
    groups = param_groups(opt)
    return bool(groups) and all("momentum" in group or "betas" in group for group in groups)


def get_hyper(group: dict[str, Any], name: str) -> float:
    """Returns a hyper-parameter of a parameter group.

    The name `mom` stands for `momentum` or `betas[0]`, and `sqr_mom` stands for `betas[1]`.
    """
    if name == "mom":
        return float(group["momentum"] if "momentum" in group else group["betas"][0])
    if name == "sqr_mom":
        return float(group["betas"][1])
    return float(group[name])


def _set_in_group(group: dict[str, Any], name: str, value: float) -> None:
    if name == "mom" and "momentum" not in group and "betas" in group:
        group["betas"] = (value, group["betas"][1])
    elif name == "sqr_mom" and "betas" in group:
        group["betas"] = (group["betas"][0], value)
    else:
        key = "momentum" if name == "mom" else name
        if key not in group:
            known = ", ".join(key for key in group if key not in ("params", "name"))
            raise ValueError(f"Unknown hyper-parameter {name!r}: the optimizer has {known}.")
        if isinstance(group[key], torch.Tensor):
            group[key].fill_(value)
        else:
            group[key] = value


def set_hyper(opt: Optimizer, name: str, value: float | Iterable[float]) -> None:
    """Sets a hyper-parameter of all parameter groups.

    Args:
        opt: the optimizer.
        name: the hyper-parameter; `mom` and `sqr_mom` work as in `get_hyper`.
        value: one value for all groups, or one value per group.

    Raises:
        ValueError: if the optimizer has no parameter groups, or a group does not have this
            hyper-parameter.
    """
    groups = param_groups(opt)
    if not groups:
        raise ValueError(f"Cannot set {name!r} because {type(opt).__name__} has no param_groups.")
    values = [float(value)] * len(groups) if isinstance(value, int | float) else list(value)
    for group, item in zip(groups, values, strict=True):
        _set_in_group(group, name, item)
