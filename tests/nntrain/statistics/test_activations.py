"""Activation statistics equal torch's results, and hooks are removed after the batch."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nntrain import Callback, CancelBatchException, Event, Learner
from nntrain.statistics import N_BINS, ActivationStats, activation_statistics, histogram
from nntrain.testing import SpyCallback
from tests.common.toys import Lists, digits_mlp, toy_learner
from tests.nntrain.statistics.toys import Parts, digits, digits_learner, first_row, n_hooks

cross_entropy = nn.functional.cross_entropy


def test_activation_statistics_by_hand() -> None:
    act = torch.tensor([[0.0, 1.0, -3.0], [0.0, 0.0, 2.0]])
    mean, std, dead_frac, max_abs = activation_statistics(act).tolist()
    assert mean == pytest.approx(0.0, abs=1e-9)
    assert std == pytest.approx(math.sqrt(14 / 5))
    assert dead_frac == pytest.approx(1 / 3)
    assert max_abs == 3.0


@pytest.mark.parametrize(
    ("shape", "unit_dim", "dead"),
    [
        ((4, 5), 1, (slice(None), 2)),
        ((4, 5, 3, 3), 1, (slice(None), 2)),
        ((4, 7, 5), -1, (slice(None), slice(None), 2)),
        ((4, 5, 7), 1, (slice(None), 2)),
    ],
)
def test_a_unit_is_dead_if_it_is_0_for_the_whole_batch(
    shape: tuple[int, ...], unit_dim: int, dead: Any
) -> None:
    act = torch.randn(shape)
    act[0] = 0.0
    act[dead] = 0.0
    assert activation_statistics(act, unit_dim)[2].item() == pytest.approx(1 / 5)


def test_negative_units_are_not_dead() -> None:
    assert activation_statistics(-torch.rand(8, 4) - 0.1)[2] == 0


@pytest.mark.parametrize(
    ("act", "expected"),
    [(torch.tensor(-2.0), [-2, 0, 0, 2]), (torch.tensor([0.0, 4.0]), [2, 8**0.5, 0, 4])],
)
def test_scalars_and_batches_of_scalars_are_one_unit(act: Tensor, expected: list[float]) -> None:
    assert activation_statistics(act).tolist() == pytest.approx(expected)


def test_nan_stays_nan() -> None:
    mean, std, dead_frac, max_abs = activation_statistics(
        torch.tensor([[1.0, math.nan], [0.0, 0.0]])
    ).tolist()
    assert all(map(math.isnan, (mean, std, max_abs)))
    assert dead_frac == 0.0


def test_half_precision_is_computed_in_float32() -> None:
    act = torch.full((100, 30), 60.0, dtype=torch.float16)
    act[0] = 600
    assert activation_statistics(act).tolist() == pytest.approx(
        activation_statistics(act.double()).tolist(), rel=1e-5
    )


def directly(out: Tensor) -> dict[str, float]:
    dead = sum(bool((unit == 0).all()) for unit in out.unbind(1)) / out.shape[1]
    return {
        "mean": out.mean().item(),
        "std": out.std().item(),
        "dead_frac": dead,
        "max_abs": out.abs().max().item(),
    }


def test_activations_equal_plain_torch_on_the_same_batch() -> None:
    stats, model, (x, y) = ActivationStats(), digits_mlp(), next(iter(digits().train))
    hidden = model.get_submodule("0")(x).detach()
    outputs = {
        "0": hidden,
        "1": hidden.relu(),
        "2": model.get_submodule("2")(hidden.relu()).detach(),
    }
    expected = {
        f"act/{name}/{key}": value
        for name, out in outputs.items()
        for key, value in directly(out).items()
    }
    row = first_row(stats, model, x, y, loss_func=cross_entropy)
    assert row == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert row["act/1/dead_frac"] > 0
    counts = stats.histograms()
    assert counts.shape == (1, 3, N_BINS)
    assert torch.equal(counts[0, 1], histogram(outputs["1"]))
    assert counts.sum((0, 2)).tolist() == [64 * 50, 64 * 50, 64 * 10]


def test_outputs_of_all_sizes_are_those_of_plain_torch_before_the_next_layer_changes_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 256), nn.ReLU(inplace=True), nn.Linear(256, 3))
    batches = [(torch.randn(n, 4), torch.randn(n, 3)) for n in (8, 300, 300, 8, 1)]
    stats = ActivationStats()
    toy_learner(Lists(batches, None), model, lr=0.0, cbs=[stats]).fit(1)
    history, counts = stats.history(), stats.histograms()
    for step, (x, _) in enumerate(batches):
        hidden = model.get_submodule("0")(x).detach()
        for i, out in enumerate(
            (hidden, hidden.relu(), model.get_submodule("2")(hidden.relu()).detach())
        ):
            actual = {name: values[step, i].item() for name, values in history.values.items()}
            assert actual == pytest.approx(directly(out), rel=1e-5, abs=1e-7)
            assert torch.equal(counts[step, i], histogram(out))


@pytest.mark.parametrize("sizes", [(2, 70_000), (70_000, 2), (2, 3), (70_000, 80_000)])
def test_the_last_run_of_a_module_in_a_batch_counts(sizes: tuple[int, int]) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            first, last = (self.layer(x.expand(n, 1) * n) for n in sizes)
            return first.mean() + last.mean()

    stats, x = ActivationStats(), torch.ones(1, 1)
    model = Twice()
    last = model.layer(x * sizes[1]).item()
    row = first_row(stats, model, x, torch.zeros(()))
    assert row["act/layer/mean"] == pytest.approx(last, rel=1e-5)
    assert stats.histograms().sum() == sizes[1]


def test_the_standard_deviation_of_many_values_far_from_0_is_exact() -> None:
    act = 100 + 0.1 * torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0))
    assert activation_statistics(act)[1].item() == pytest.approx(
        act.double().std().item(), rel=1e-6
    )


def test_tuples_give_their_first_float_tensor_and_layers_that_do_not_run_are_left_out() -> None:
    stats, model, x = ActivationStats(), Parts(), torch.randn(6, 2)
    out = model.twice(model.twice(x))
    row = first_row(stats, model, x, torch.randn(6, 2))
    assert row["act/pair/mean"] == pytest.approx(out.mean().item())
    assert row["act/twice/mean"] == pytest.approx(out.mean().item())
    assert not any("unused" in key for key in row)
    assert stats.history().values["mean"][0].isnan().tolist() == [False, True, False]


def test_if_a_batch_is_cancelled_before_its_prediction_the_next_one_is_sampled() -> None:
    class Skip(Callback):
        order = 30

        def before_batch(self, learn: Learner) -> None:
            if learn.training and learn.iter in (3, 4):
                raise CancelBatchException

    stats = ActivationStats(every=3)
    digits_learner(stats, Skip()).fit(1)
    assert stats.history().steps == [1, 6, 7, 10]


class CountHooks(SpyCallback):
    """Counts the hooks on the model between batches and in batches that are not sampled."""

    order = 40

    def __init__(self) -> None:
        super().__init__()
        self.n: dict[str, set[int]] = {}

    def on(self, event: Event, learn: Learner) -> None:
        part = "train" if learn.training else "valid"
        self.n.setdefault(f"{event}/{part}/{learn.train_iter % 3}", set()).add(n_hooks(learn.model))


def test_hooks_are_on_only_during_a_sampled_training_batch() -> None:
    counts = CountHooks()
    digits_learner(ActivationStats(every=3), counts).fit(1)
    assert counts.n.pop("before_batch/train/0") == {3}
    assert set().union(*counts.n.values()) == {0}


def test_an_error_within_a_layer_leaves_no_hook() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("broken layer")

    stats = ActivationStats()
    learn = digits_learner(stats, model=nn.Sequential(nn.Linear(64, 10), Fails()))
    with pytest.raises(RuntimeError, match="broken layer"):
        learn.fit(1)
    assert n_hooks(learn.model) == 0
    assert stats.drain() == []


class LastHistograms(SpyCallback):
    """Reads the newest histograms at the start and the end of each training batch."""

    order = 40

    def __init__(self, stats: ActivationStats) -> None:
        super().__init__()
        self.stats, self.seen = stats, list[dict[str, list[float]]]()

    def on(self, event: Event, learn: Learner) -> None:
        if learn.training and event in (Event.BEFORE_BATCH, Event.AFTER_BATCH):
            self.seen.append(self.stats.last_histograms())


@pytest.mark.parametrize("buffer_rows", [1, 2, 256])
@pytest.mark.parametrize("every", [1, 3])
def test_the_last_histograms_are_those_of_the_newest_row(every: int, buffer_rows: int) -> None:
    stats = ActivationStats(every=every, buffer_rows=buffer_rows)
    assert stats.last_histograms() == {}
    spy = LastHistograms(stats)
    digits_learner(stats, spy).fit(1)
    counts = stats.histograms().tolist()
    rows: list[dict[str, list[float]]] = [
        dict(zip(["act/0", "act/1", "act/2"], row, strict=True)) for row in counts
    ]
    expected: list[dict[str, list[float]]] = [
        {},
        *(rows[step // every] for step in range(10) for _ in range(2)),
    ]
    assert spy.seen == expected[:-1]
    assert stats.last_histograms() == rows[-1]
    assert sum(rows[0]["act/0"]) == 64 * 50


def test_layers_that_do_not_run_have_no_last_histogram() -> None:
    stats = ActivationStats()
    first_row(stats, Parts(), torch.randn(6, 2), torch.randn(6, 2))
    assert {name: sum(counts) for name, counts in stats.last_histograms().items()} == {
        "act/twice": 12,
        "act/pair": 12,
    }


def test_the_last_histograms_read_only_one_row_from_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stats, read, cpu = ActivationStats(), list[tuple[int, ...]](), Tensor.cpu

    def noted(tensor: Tensor) -> Tensor:
        read.append(tuple(tensor.shape))
        return cpu(tensor)

    class ReadAtTheEnd(Callback):
        def after_train(self, learn: Learner) -> None:
            with monkeypatch.context() as patched:
                patched.setattr(Tensor, "cpu", noted)
                stats.last_histograms()

    digits_learner(stats, ReadAtTheEnd()).fit(1)
    assert read == [(3, 4 + N_BINS)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_sampled_batches_do_not_wait_for_the_gpu_and_work_with_deterministic_algorithms() -> None:
    act = torch.randn(64, 8, 4, 4, device="cuda")
    torch.use_deterministic_algorithms(True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        row = torch.cat([activation_statistics(act), histogram(act)])
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(False)
    expected = torch.cat([activation_statistics(act.cpu()), histogram(act.cpu())])
    assert row[:4].cpu().tolist() == pytest.approx(expected[:4].tolist(), rel=1e-4, abs=1e-6)
    assert (row[4:].cpu() - expected[4:]).abs().sum() <= 4
