"""The numbers in a summary equal torch's, and creating the summary changes nothing."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from nntrain import Learner
from nntrain.summary import LayerSummary, ModelSummary, summarize
from tests.common.toys import Lists, digits_lists, digits_mlp, toy_learner


def learner_on(model: nn.Module, *inputs: Tensor, **kwargs: Any) -> Learner:
    target = torch.zeros(len(inputs[0]))
    return toy_learner(Lists([(*inputs, target)], None), model, **kwargs)


def test_rows_of_a_linear_net_by_hand() -> None:
    learn = toy_learner(digits_lists(), digits_mlp())
    assert summarize(learn).rows == (
        LayerSummary("0", "Linear", (64, 64), (64, 50), 64 * 50 + 50, 64 * 50 + 50, 64 * 64 * 50),
        LayerSummary("1", "ReLU", (64, 50), (64, 50), 0, 0, 0),
        LayerSummary("2", "Linear", (64, 50), (64, 10), 50 * 10 + 10, 50 * 10 + 10, 64 * 50 * 10),
    )


CONV_NETS = {
    "linear on tokens": (nn.Linear(6, 5, bias=False), (2, 7, 6)),
    "conv1d": (
        nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.Flatten(), nn.Linear(6 * 9, 2)),
        (3, 4, 9),
    ),
    "conv2d, strided, dilated, grouped": (
        nn.Sequential(
            nn.Conv2d(4, 8, 3, stride=2, groups=2),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, (1, 3), dilation=2, groups=8),
        ),
        (2, 4, 13, 15),
    ),
    "conv3d": (nn.Conv3d(2, 3, 3), (2, 2, 5, 6, 7)),
}


@pytest.mark.parametrize("case", CONV_NETS)
def test_macs_are_half_of_the_flops_that_torch_counts(case: str) -> None:
    model, shape = CONV_NETS[case]
    x = torch.randn(shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert 2 * summarize(learner_on(model, x)).macs == counter.get_total_flops()


class Shared(nn.Module):
    """A model with a reused, an unused and a frozen layer, tied weights, and its own parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.twice = nn.Linear(3, 3)
        self.again = self.twice
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.twice.weight
        self.unused = nn.Linear(3, 7)
        self.frozen = nn.Linear(3, 1).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.frozen(self.tied(self.again(self.twice(x * self.scale))))
        return out[:, 0]


def test_shared_weights_are_counted_once_and_macs_once_per_run() -> None:
    model = Shared()
    summary = summarize(learner_on(model, torch.randn(5, 3)))
    assert {row.name: (row.parameters, row.trainable, row.macs) for row in summary.rows} == {
        "model": (3, 3, 0),
        "twice": (12, 12, 2 * 5 * 9),
        "tied": (3, 3, 5 * 9),
        "unused": (28, 28, 0),
        "frozen": (4, 0, 5 * 3),
    }
    assert summary.parameters == sum(param.numel() for param in model.parameters())
    assert summary.trainable == sum(
        param.numel() for param in model.parameters() if param.requires_grad
    )
    unused = next(row for row in summary.rows if row.name == "unused")
    assert (unused.input_shape, unused.output_shape) == (None, None)


def test_layers_may_have_several_inputs_and_batches_may_be_tuples_or_mappings() -> None:
    class TwoInputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.rnn = nn.Bilinear(2, 3, 4), nn.GRU(4, 5, batch_first=True)

        def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
            return {"out": self.rnn(self.mix(left, right)[:, None])[0]}

    left, right = torch.randn(6, 2), torch.randn(6, 3)
    for batch in (
        (left, right, torch.zeros(6)),
        {"left": left, "right": right, "label": torch.zeros(6)},
    ):
        rows = summarize(toy_learner(Lists([batch], None), TwoInputs())).rows
        assert [(row.name, row.input_shape, row.output_shape) for row in rows] == [
            ("mix", (6, 2), (6, 4)),
            ("rnn", (6, 1, 4), (6, 1, 5)),
        ]


def test_the_text_is_an_aligned_table_with_totals() -> None:
    summary = ModelSummary(
        (
            LayerSummary("body.0", "Linear", (64, 640), (64, 50), 32050, 32050, 2048000),
            LayerSummary("head", "ReLU", None, None, 0, 0, 0),
        )
    )
    assert str(summary).splitlines() == [
        "layer   type    input      output    parameters  trainable       MACs",
        "---------------------------------------------------------------------",
        "body.0  Linear  (64, 640)  (64, 50)      32,050     32,050  2,048,000",
        "head    ReLU    -          -                  0          0          0",
        "---------------------------------------------------------------------",
        "Parameters: 32,050 (32,050 trainable)",
        "Multiply-accumulates for this batch: 2,048,000",
    ]


def test_the_batch_is_the_first_of_validation_or_else_of_training() -> None:
    both = Lists([(torch.randn(4, 1), torch.randn(4, 1))], [(torch.randn(3, 1), torch.randn(3, 1))])
    assert toy_learner(both).summary().rows[0].input_shape == (3, 1)
    both.valid = None
    assert toy_learner(both).summary().rows[0].input_shape == (4, 1)


def test_an_empty_loader_is_an_error() -> None:
    with pytest.raises(ValueError, match="yielded no batch"):
        summarize(toy_learner(Lists([], None)))


def test_training_is_the_same_with_and_without_a_summary() -> None:
    def run(with_summary: bool) -> Iterator[Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        model[2].eval()
        data = TensorDataset(torch.randn(24, 1), torch.randn(24, 1))
        learn = toy_learner(
            Lists(DataLoader(data, 8, shuffle=True), None), model, opt_func=torch.optim.Adam
        )
        learn.fit(1)
        before = dict(vars(learn))
        if with_summary:
            learn.summary()
        assert vars(learn).keys() == before.keys()
        assert all(
            value is before[name] or value == before[name]
            for name, value in vars(learn).items()
            if name != "recorder"
        )
        assert [module.training for module in model] == [True, True, False, True]
        assert not any(module._forward_hooks for module in model.modules())
        yield learn.recorder.losses.tolist()
        learn.fit(2)
        yield learn.recorder.losses.tolist()
        yield [param.tolist() for param in (*model.parameters(), *model.buffers())]
        yield torch.get_rng_state().tolist()

    assert list(run(True)) == list(run(False))
