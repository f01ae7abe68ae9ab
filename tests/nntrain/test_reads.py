"""The device is not read per batch: the number of reads depends only on the epochs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nntrain import AccumMetric, AvgSmoothLoss, Callback, Learner, accuracy
from nntrain.testing import counted_reads
from tests.common.toys import Lists, batches, digits_mlp

N_EPOCH = 2


def learner_on(n_batch: int, *cbs: Callback) -> Learner:
    gen = torch.Generator().manual_seed(0)
    items = batches(
        torch.rand(8 * n_batch, 64, generator=gen),
        torch.randint(10, (8 * n_batch,), generator=gen),
        8,
    )
    metrics = [accuracy, AvgSmoothLoss(), AccumMetric(exact_matches, dim_argmax=1)]
    return Learner(
        digits_mlp(), Lists(items, items), loss_of, lr=0.1, metrics=metrics, cbs=cbs, device="cpu"
    )


def loss_of(pred: Tensor, target: Tensor) -> dict[str, Tensor]:
    return {
        "cross_entropy": nn.functional.cross_entropy(pred, target),
        "size": 1e-3 * pred.square().mean(),
    }


def exact_matches(pred: Tensor, target: Tensor) -> Tensor:
    return (pred == target).sum()


def reads_of(learn: Learner, run: Callable[[Learner], object]) -> int:
    with counted_reads() as counter:
        run(learn)
    return counter.n


def one_cycle(learn: Learner) -> object:
    return learn.fit_one_cycle(N_EPOCH)


def validate(learn: Learner) -> object:
    return learn.validate()


@pytest.mark.parametrize("run", [one_cycle, validate])
def test_twice_as_many_batches_need_the_same_number_of_reads(
    run: Callable[[Learner], object],
) -> None:
    reads = reads_of(learner_on(10), run)
    assert reads > 0
    assert reads_of(learner_on(20), run) == reads


def test_each_epoch_reads_each_value_once() -> None:
    learn = learner_on(4)
    reads = reads_of(learn, one_cycle)
    values = [
        name for row in learn.recorder.rows for name in row if name.startswith(("train/", "valid/"))
    ]
    assert reads == len(values)


class Item(Callback):
    def after_loss(self, learn: Learner) -> None:
        learn.loss.item()


class Truth(Callback):
    def after_loss(self, learn: Learner) -> None:
        bool(learn.loss.isnan())


class Cpu(Callback):
    def after_loss(self, learn: Learner) -> None:
        learn.loss.cpu()


class ToList(Callback):
    def after_loss(self, learn: Learner) -> None:
        learn.pred.tolist()


class Float(Callback):
    def after_loss(self, learn: Learner) -> None:
        float(learn.loss.detach())


class Numpy(Callback):
    def after_loss(self, learn: Learner) -> None:
        learn.loss.detach().numpy()


@pytest.mark.parametrize("reading", [Item, Truth, Cpu, ToList, Float, Numpy])
def test_the_counter_counts_a_callback_that_reads(reading: type[Callback]) -> None:
    quiet = reads_of(learner_on(4), one_cycle)
    assert reads_of(learner_on(4, reading()), one_cycle) == quiet + N_EPOCH * (4 + 4)
