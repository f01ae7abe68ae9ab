import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nntrain import Learner
from nntrain.losses import MultiLoss
from tests.common.toys import Lists

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "losses.json").read_text())


@pytest.mark.parametrize(
    "case", REFERENCE["label_smoothing"], ids=lambda case: f"{case['eps']}-{case['reduction']}"
)
def test_label_smoothing_of_torch_equals_fastais(case: dict[str, Any]) -> None:
    pred, target = torch.tensor(REFERENCE["pred"]), torch.tensor(REFERENCE["target"])
    loss = nn.CrossEntropyLoss(label_smoothing=case["eps"], reduction=case["reduction"])(
        pred, target
    )
    assert loss.item() == pytest.approx(case["loss"], rel=1e-6)


def recon(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).square().mean()


def size(pred: Tensor, target: Tensor) -> Tensor:
    return pred.abs().mean()


def test_each_loss_is_weighted_and_named() -> None:
    parts = MultiLoss({"recon": recon, "size": size}, {"size": 0.5})(
        torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0])
    )
    assert {name: part.item() for name, part in parts.items()} == {"recon": 2.5, "size": 1.0}


def test_every_loss_gets_every_label() -> None:
    seen = []
    loss = MultiLoss({"a": lambda *args: seen.append(args) or torch.zeros(())})
    loss("pred", "first", "second")
    assert seen == [("pred", "first", "second")]


def test_the_learner_trains_on_the_sum_and_records_the_parts() -> None:
    x, y = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[2.0], [0.0], [1.0]])
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 0.5)
    nn.init.constant_(model.bias, 0.0)
    loss = MultiLoss({"recon": recon, "size": size}, {"recon": 2.0})
    learn = Learner(
        model, Lists([(x, y)], [(x[:1], y[:1]), (x[1:], y[1:])]), loss, lr=0.0, device="cpu"
    )
    metrics = learn.fit(1).metrics
    squares, sizes = [2.25, 1.0, 1.0], [0.5, 1.0, 2.0]
    for part in ("train", "valid"):
        assert metrics[f"{part}/recon"] == pytest.approx(2 * sum(squares) / 3)
        assert metrics[f"{part}/size"] == pytest.approx(sum(sizes) / 3)
        assert metrics[f"{part}/loss"] == pytest.approx((2 * sum(squares) + sum(sizes)) / 3)
    grad_of_sum = torch.autograd.grad(2 * recon(model(x), y) + size(model(x), y), model.weight)[0]
    learn.lr = 1.0
    learn.fit(1)
    assert 0.5 - model.weight.item() == pytest.approx(grad_of_sum.item())


@pytest.mark.parametrize(
    ("losses", "weights", "message"),
    [
        ({}, None, "MultiLoss needs at least one loss."),
        (
            {"a": recon, "b": size},
            {"c": 1.0},
            "MultiLoss got a weight for the unknown loss 'c': choose from a, b.",
        ),
    ],
)
def test_missing_or_unknown_losses_are_an_error(
    losses: dict[str, Any], weights: dict[str, float] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        MultiLoss(losses, weights)


def test_the_loss_copies_the_given_mappings() -> None:
    losses, weights = {"a": recon}, {"a": 2.0}
    loss = MultiLoss(losses, weights)
    losses.clear()
    weights.clear()
    assert loss(torch.ones(1), torch.zeros(1)) == {"a": 2.0}


def test_losses_that_are_modules_move_with_it() -> None:
    multi = MultiLoss(
        {"ce": nn.CrossEntropyLoss(weight=torch.ones(3)), "l1": nn.functional.l1_loss}
    )
    multi.to(torch.float64)
    assert multi.losses["ce"].weight.dtype is torch.float64
