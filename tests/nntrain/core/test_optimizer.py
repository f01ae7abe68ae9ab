"""Parameter groups, discriminative learning rates and hyper-parameters."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from nntrain import Learner
from nntrain.core.optimizer import (
    Optimizer,
    get_hyper,
    group_lrs,
    group_names,
    has_momentum,
    make_optimizer,
    one_group,
    param_groups,
    set_hyper,
    split_by_children,
)
from tests.common.toys import toy_learner


class SignOptimizer:
    """Steps against the sign of the gradient, without parameter groups."""

    def __init__(self, params: list[dict[str, Any]], lr: float) -> None:
        self.params, self.lr = [param for group in params for param in group["params"]], lr

    @torch.no_grad()
    def step(self) -> None:
        for param in self.params:
            param -= self.lr * param.grad.sign()

    def zero_grad(self) -> None:
        for param in self.params:
            param.grad = None


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))


def opt_of(opt_func: Any = torch.optim.SGD, lr: Any = 0.1, wd: float | None = None) -> Optimizer:
    return make_optimizer(two_layers(), opt_func, lr, wd, split_by_children)


@pytest.mark.parametrize(
    ("lr", "n_group", "expected"),
    [
        (0.1, 1, [0.1]),
        (0.1, 3, [0.1, 0.1, 0.1]),
        (slice(1e-4, 1e-2), 3, [1e-4, 1e-3, 1e-2]),
        (slice(1e-4, 1e-2), 2, [1e-4, 1e-2]),
        (slice(1e-4, 1e-2), 1, [1e-2]),
        (slice(1e-2), 3, [1e-3, 1e-3, 1e-2]),
        (slice(1e-2), 1, [1e-2]),
        ([1e-3, 1e-2], 2, [1e-3, 1e-2]),
        ((1, 2), 2, [1.0, 2.0]),
        (0, 2, [0, 0]),
    ],
)
def test_group_lrs(lr: Any, n_group: int, expected: list[float]) -> None:
    assert group_lrs(lr, n_group) == pytest.approx(expected, rel=1e-12)


def test_group_lrs_needs_one_rate_for_each_group() -> None:
    with pytest.raises(ValueError, match="lr has 2 values for 3 parameter groups: pass one value"):
        group_lrs([0.1, 0.2], 3)


@pytest.mark.parametrize(
    "lr", [slice(0, 0.1), slice(0.1, 0), slice(-1, 1), slice(0), slice(0.1, None)]
)
def test_group_lrs_needs_rates_above_zero_in_a_slice(lr: slice) -> None:
    with pytest.raises(ValueError, match=r"must be slice\(first, last\) .* rates greater than 0"):
        group_lrs(lr, 2)


def test_one_group_excludes_frozen_parameters() -> None:
    model = two_layers()
    model[0].requires_grad_(False)
    (group,) = one_group(model)
    assert [id(param) for param in group["params"]] == [
        id(param) for param in model[2].parameters()
    ]


def test_split_by_children_names_groups_and_skips_empty_ones() -> None:
    assert [(group["name"], len(group["params"])) for group in split_by_children(two_layers())] == [
        ("0", 2),
        ("2", 2),
    ]


def test_make_optimizer_gives_each_group_its_rate_and_all_groups_one_weight_decay() -> None:
    groups = param_groups(opt_of(lr=slice(1e-3, 1e-1), wd=0.2))
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(1e-3, 0.2), (1e-1, 0.2)]


def test_make_optimizer_keeps_the_optimizers_own_weight_decay() -> None:
    assert param_groups(opt_of(torch.optim.AdamW))[0]["weight_decay"] == 0.01


def test_a_weight_decay_of_zero_replaces_the_optimizers_own() -> None:
    assert param_groups(opt_of(torch.optim.AdamW, wd=0))[0]["weight_decay"] == 0


def test_make_optimizer_needs_a_trainable_parameter() -> None:
    with pytest.raises(ValueError, match="no trainable parameters: set requires_grad"):
        make_optimizer(nn.ReLU(), torch.optim.SGD, 0.1, None, one_group)


def test_group_names_are_names_or_indices() -> None:
    assert group_names(opt_of()) == ["0", "2"]
    assert group_names(make_optimizer(two_layers(), torch.optim.SGD, 0.1, None, one_group)) == ["0"]


@pytest.mark.parametrize(
    ("opt_func", "expected"),
    [
        (torch.optim.SGD, True),
        (torch.optim.Adam, True),
        (torch.optim.Adagrad, False),
        (SignOptimizer, False),
    ],
)
def test_has_momentum(opt_func: Any, expected: bool) -> None:
    assert has_momentum(opt_of(opt_func)) is expected


@pytest.mark.parametrize(
    ("opt_func", "name", "key", "expected"),
    [
        (torch.optim.SGD, "lr", "lr", 0.7),
        (torch.optim.SGD, "mom", "momentum", 0.7),
        (torch.optim.RMSprop, "mom", "momentum", 0.7),
        (torch.optim.Adam, "mom", "betas", (0.7, 0.999)),
        (torch.optim.Adam, "sqr_mom", "betas", (0.9, 0.7)),
        (torch.optim.Adam, "eps", "eps", 0.7),
        (torch.optim.SGD, "weight_decay", "weight_decay", 0.7),
    ],
)
def test_set_hyper_sets_what_get_hyper_returns(
    opt_func: Any, name: str, key: str, expected: object
) -> None:
    opt = opt_of(opt_func)
    set_hyper(opt, name, 0.7)
    assert [group[key] for group in param_groups(opt)] == [expected, expected]
    assert [get_hyper(group, name) for group in param_groups(opt)] == [0.7, 0.7]


def test_set_hyper_accepts_a_value_for_each_group() -> None:
    opt = opt_of()
    set_hyper(opt, "lr", [0.1, 0.2])
    assert [group["lr"] for group in param_groups(opt)] == [0.1, 0.2]


def test_set_hyper_keeps_a_tensor_learning_rate_a_tensor() -> None:
    weight = nn.Parameter(torch.ones(1))
    rate = torch.tensor(0.1)
    opt = torch.optim.SGD([weight], lr=rate)
    set_hyper(opt, "lr", 0.5)
    assert opt.param_groups[0]["lr"] is rate
    assert rate.item() == 0.5


def test_an_unknown_hyper_parameter_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match="hyper-parameter 'nu': the optimizer has lr, momentum, dampening"
    ):
        set_hyper(opt_of(), "nu", 1.0)


def test_set_hyper_needs_param_groups() -> None:
    with pytest.raises(
        ValueError, match="Cannot set 'lr' because SignOptimizer has no param_groups"
    ):
        set_hyper(opt_of(SignOptimizer), "lr", 1.0)


def test_an_optimizer_with_only_step_and_zero_grad_trains() -> None:
    learn = toy_learner(opt_func=SignOptimizer, lr=0.25)
    before = {name: value.clone() for name, value in learn.model.state_dict().items()}
    learn.fit(1)
    (weight, bias) = learn.model.state_dict().values()
    moved = [(weight - before["weight"]).abs().item(), (bias - before["bias"]).abs().item()]
    assert all(
        distance > 0 and (distance / 0.25) % 1 == pytest.approx(0, abs=1e-5) for distance in moved
    )
    assert learn.recorder.lrs == {}
    assert learn.recorder.moms == {}


def test_a_learning_rate_that_cannot_be_set_is_an_error() -> None:
    with pytest.raises(
        ValueError, match="Cannot set 'lr' because SignOptimizer has no param_groups"
    ):
        toy_learner(opt_func=SignOptimizer).fit(1, lr=0.1)


def lr_of(learn: Learner) -> list[float]:
    assert learn.opt is not None
    return [group["lr"] for group in param_groups(learn.opt)]


def test_the_learning_rate_of_a_fit_is_for_that_fit_only() -> None:
    learn = toy_learner(lr=0.05)
    learn.fit(1, lr=0.01)
    first = lr_of(learn)
    learn.fit(1)
    assert (first, lr_of(learn)) == ([0.01], [0.05])


def test_a_learning_rate_of_zero_is_used() -> None:
    learn = toy_learner(lr=0.05)
    before = learn.model.weight.item()
    learn.fit(1, lr=0.0)
    assert (lr_of(learn), learn.model.weight.item()) == ([0.0], before)


def test_the_weight_decay_of_a_fit_replaces_that_of_the_learner() -> None:
    learn = toy_learner(wd=0.5)
    learn.fit(1)
    assert param_groups(learn.opt or learn.create_opt())[0]["weight_decay"] == 0.5
    learn.fit(1, wd=0.0)
    assert param_groups(learn.opt or learn.create_opt())[0]["weight_decay"] == 0.0


def test_opt_func_may_be_a_partial_of_a_torch_optimizer() -> None:
    learn = toy_learner(opt_func=partial(torch.optim.Adam, eps=1e-5))
    learn.fit(1)
    assert param_groups(learn.opt or learn.create_opt())[0]["eps"] == 1e-5


@pytest.mark.parametrize(
    "lr", [-1.0, math.nan, math.inf, [0.1, -0.1], slice(1e-3, math.inf), slice(math.nan)]
)
def test_a_rate_that_is_negative_or_not_finite_is_refused(lr: Any) -> None:
    with pytest.raises(ValueError, match=r"must be finite and at least 0|rates greater than 0"):
        group_lrs(lr, 2)


def test_a_rate_of_0_is_allowed() -> None:
    assert group_lrs([0.0, 0], 2) == [0, 0]
