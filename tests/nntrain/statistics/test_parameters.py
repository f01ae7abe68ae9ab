"""Norms of gradients, weights and updates equal those of plain torch."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nntrain import Callback, CancelBatchException, CancelException, CancelStepException, Learner
from nntrain.statistics import GradientStats, ParameterStatistics, UpdateStats, WeightStats
from tests.common.toys import Lists, digits_mlp, toy_learner
from tests.nntrain.statistics.toys import Parts, digits, digits_learner, first_row

cross_entropy = nn.functional.cross_entropy


def _norm(*tensors: Tensor) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


@pytest.mark.parametrize("opt_func", [torch.optim.SGD, torch.optim.Adam])
def test_gradients_weights_and_updates_equal_plain_torch(opt_func: Any) -> None:
    model, (x, y) = digits_mlp(), next(iter(digits().train))
    reference = digits_mlp()
    opt = opt_func(reference.parameters(), lr=0.1)
    before = [param.detach().clone() for param in reference.parameters()]
    cross_entropy(reference(x), y).backward()
    grads = [param.grad.clone() for param in reference.parameters() if param.grad is not None]
    opt.step()
    after = [param.detach() for param in reference.parameters()]
    expected = {}
    for layer, at in {"0": slice(0, 2), "2": slice(2, 4)}.items():
        changes = [new - old for new, old in zip(after[at], before[at], strict=True)]
        expected[f"grad/{layer}/norm"] = _norm(*grads[at])
        expected[f"weight/{layer}/norm"] = _norm(*after[at])
        expected[f"update/{layer}/ratio"] = _norm(*changes) / _norm(*before[at])
    kinds = [GradientStats(), WeightStats(), UpdateStats()]
    toy_learner(
        Lists([(x, y)], None), model, loss_func=cross_entropy, lr=0.1, opt_func=opt_func, cbs=kinds
    ).fit(1)
    row = {key: value for stats in kinds for key, value in stats.drain()[0][1].items()}
    assert row == pytest.approx(expected, rel=1e-5)


def test_layers_may_have_different_numbers_of_parameters() -> None:
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.PReLU(), nn.Linear(3, 2))
    row = first_row(WeightStats(), model, torch.randn(6, 2), torch.randn(6, 2))
    assert row == pytest.approx(
        {
            f"weight/{i}/norm": _norm(*map(Tensor.detach, layer.parameters()))
            for i, layer in enumerate(model)
        }
    )


def test_frozen_layers_are_not_watched_and_layers_without_gradient_are_omitted() -> None:
    model = Parts()
    frozen = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), model)
    row = first_row(GradientStats(), frozen, torch.randn(6, 2), torch.randn(6, 2))
    assert list(row) == ["grad/1.twice/norm"]
    stats = WeightStats()
    first_row(stats, frozen, torch.randn(6, 2), torch.randn(6, 2))
    assert stats.layers == ["1.twice", "1.unused"]


def test_sparse_gradients_have_their_dense_norm() -> None:
    rows = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(5, 3, sparse=sparse), nn.Flatten(), nn.Linear(6, 1))
        rows.append(
            first_row(
                GradientStats(),
                model,
                torch.tensor([[1, 1], [2, 1]]),
                torch.randn(2, 1, generator=torch.Generator().manual_seed(0)),
            )
        )
    assert rows[0] == pytest.approx(rows[1])


class CancelEachStepBut(Callback):
    """Cancels all steps except every third, as gradient accumulation does."""

    order = 10

    def __init__(self, cancel: type[CancelException]) -> None:
        self.cancel = cancel

    def before_step(self, learn: Learner) -> None:
        if learn.train_iter % 3 != 2:
            raise self.cancel


@pytest.mark.parametrize("cancel", [CancelStepException, CancelBatchException])
@pytest.mark.parametrize("order", [10, 30])
def test_only_steps_that_happened_are_recorded(cancel: type[CancelException], order: int) -> None:
    stats, steps = UpdateStats(every=2), CancelEachStepBut(cancel)
    steps.order = order  # type: ignore[misc]
    digits_learner(stats, steps, n_batch=9).fit(1)
    assert stats.history().steps == [3, 6, 9]
    assert (stats.history().values["ratio"] > 0).all()


def test_gradient_norms_are_taken_before_clipping() -> None:
    class Shrink(Callback):
        order = 10

        def after_backward(self, learn: Learner) -> None:
            for param in learn.model.parameters():
                assert param.grad is not None
                param.grad.mul_(0)

    stats = GradientStats()
    digits_learner(stats, Shrink()).fit(1)
    assert (stats.history().values["norm"] > 0).all()


def test_a_custom_statistic_needs_a_prefix_names_and_a_row() -> None:
    class BiasMean(ParameterStatistics):
        prefix, names = "bias", ("mean",)

        def after_step(self, learn: Learner) -> None:
            if self._is_due(learn):
                self._record(
                    learn,
                    torch.stack(
                        [module.get_parameter("bias").detach().mean() for module in self._watched]
                    ),
                    [0, 1],
                )

    stats = BiasMean(every=10)
    learn = digits_learner(stats, n_batch=1)
    learn.fit(1)
    biases = {
        f"bias/{i}/mean": learn.model.get_parameter(f"{i}.bias").mean().item() for i in (0, 2)
    }
    [(step, row)] = stats.drain()
    assert step == 1
    assert row == pytest.approx(biases)
