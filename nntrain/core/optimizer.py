"""Making the optimizer: parameter groups, discriminative learning rates, and reading and setting hyper-parameters."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import nn

LearningRate: TypeAlias = float | slice | Sequence[float]
"""One rate; one for each parameter group; or a `slice(first, last)` of even multiples from the first group to the last."""

ParamGroups: TypeAlias = list[dict[str, Any]]
"""torch's own form: `[{"params": [...], "name": "body"}, {"params": [...], "name": "head"}]`."""

Splitter: TypeAlias = Callable[[nn.Module], ParamGroups]
"""Splits a model's parameters into groups, so that each group can have a learning rate of its own."""


@runtime_checkable
class Optimizer(Protocol):
    """What the learner needs of an optimizer; those of torch have `param_groups` and `state_dict` as well."""

    def step(self) -> Any:
        """Updates the parameters from their gradients."""

    def zero_grad(self) -> None:
        """Forgets the gradients."""


class OptimizerFactory(Protocol):
    """Makes an optimizer, as `torch.optim.SGD` and `functools.partial(torch.optim.Adam, eps=1e-5)` do."""

    def __call__(self, params: Any, *, lr: float) -> Optimizer:
        """Makes an optimizer for parameters or parameter groups."""


def one_group(model: nn.Module) -> ParamGroups:
    """All trainable parameters in one group, named `0`."""
    return [{"params": [param for param in model.parameters() if param.requires_grad]}]


def split_by_children(model: nn.Module) -> ParamGroups:
    """One group for each child module that has trainable parameters, named as the child is."""
    groups = [
        {"params": [param for param in child.parameters() if param.requires_grad], "name": name}
        for name, child in model.named_children()
    ]
    return [group for group in groups if group["params"]]


def group_lrs(lr: LearningRate, n_group: int) -> list[float]:
    """The learning rate of each parameter group.

    As in fastai, `slice(a, b)` gives geometrically even rates from `a` to `b`, and `slice(b)` gives the last group `b`
    and the others a tenth of it.

    Raises:
        ValueError: if a sequence has another length than there are groups, a slice does not go from one rate above 0 to
            another, or a rate is negative or not finite.
    """
    rates = _rates(lr, n_group)
    for rate in rates:
        if not 0 <= rate < math.inf:
            raise ValueError(
                f"lr={lr} gives a learning rate of {rate}: it must be finite and at least 0."
            )
    return rates


def _rates(lr: LearningRate, n_group: int) -> list[float]:
    if isinstance(lr, slice):
        return _slice_lrs(lr, n_group)
    if isinstance(lr, Sequence):
        if len(lr) != n_group:
            raise ValueError(
                f"lr has {len(lr)} values for {n_group} parameter groups: give one for each, or one for all."
            )
        return [float(rate) for rate in lr]
    return [lr] * n_group


def _slice_lrs(lr: slice, n_group: int) -> list[float]:
    if any(rate is not None and rate <= 0 for rate in (lr.start, lr.stop)) or lr.stop is None:
        raise ValueError(
            f"lr={lr} has no even multiples: give slice(first, last) or slice(last) with rates above 0."
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
    """Makes the optimizer over the splitter's groups, each with its learning rate and, if given, weight decay.

    Raises:
        ValueError: if the model has nothing to train.
    """
    groups = splitter(model)
    if not any(group["params"] for group in groups):
        raise ValueError(
            "The model has no trainable parameter: set requires_grad on what is to be trained."
        )
    rates = group_lrs(lr, len(groups))
    opt = opt_func(
        [{**group, "lr": rate} for group, rate in zip(groups, rates, strict=True)], lr=rates[-1]
    )
    if wd is not None:
        set_hyper(opt, "weight_decay", wd)
    return opt


def param_groups(opt: Optimizer) -> ParamGroups:
    """The optimizer's parameter groups; none where it has none."""
    groups: ParamGroups = getattr(opt, "param_groups", [])
    return groups


def group_names(opt: Optimizer) -> list[str]:
    """The name of each parameter group: its `name`, else its index."""
    return [str(group.get("name", i)) for i, group in enumerate(param_groups(opt))]


def has_momentum(opt: Optimizer) -> bool:
    """Whether every parameter group has a momentum, under whatever name."""
    groups = param_groups(opt)
    return bool(groups) and all("momentum" in group or "betas" in group for group in groups)


def get_hyper(group: dict[str, Any], name: str) -> float:
    """A hyper-parameter of one group; `mom` stands for `momentum` or the first of `betas`, `sqr_mom` for the second."""
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
            raise ValueError(f"The optimizer has no hyper-parameter {name!r}: it has {known}.")
        if isinstance(group[key], torch.Tensor):
            group[key].fill_(value)
        else:
            group[key] = value


def set_hyper(opt: Optimizer, name: str, value: float | Iterable[float]) -> None:
    """Sets a hyper-parameter, to one value for all groups or to one for each; `mom` and `sqr_mom` as in `get_hyper`.

    Raises:
        ValueError: if the optimizer has no parameter groups, or no such hyper-parameter.
    """
    groups = param_groups(opt)
    if not groups:
        raise ValueError(
            f"{type(opt).__name__} has no param_groups, so its {name!r} cannot be set."
        )
    values = [float(value)] * len(groups) if isinstance(value, int | float) else list(value)
    for group, item in zip(groups, values, strict=True):
        _set_in_group(group, name, item)
