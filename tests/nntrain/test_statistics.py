"""Statistics are torch's own numbers for the batch, cost no reads, change nothing and leave nothing behind."""

import math
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nntrain import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    Event,
    Learner,
)
from nntrain.statistics import (
    N_BINS,
    ActivationStats,
    GradientStats,
    History,
    ParameterStatistics,
    Statistics,
    UpdateStats,
    WeightStats,
    activation_statistics,
    histogram,
    histogram_edges,
)
from tests.common.spies import RaiseAt, Spy, counted_reads
from tests.common.toys import Lists, digits_lists, digits_mlp, toy_learner

cross_entropy = nn.functional.cross_entropy
EVERY_KIND: list[type[Statistics]] = [ActivationStats, GradientStats, WeightStats, UpdateStats]


@cache
def digits() -> Lists:
    return digits_lists()


def digits_learner(*cbs: Callback, n_batch: int = 10, model: nn.Module | None = None, **kwargs: Any) -> Learner:
    data = digits()
    dls = Lists(list(data.train)[:n_batch], list(data.valid or [])[:2])
    return toy_learner(dls, model or digits_mlp(), loss_func=cross_entropy, lr=0.1, cbs=cbs, **kwargs)


def n_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules())


def first_row(stats: Statistics, model: nn.Module, x: Tensor, y: Tensor, **kwargs: Any) -> dict[str, float]:
    toy_learner(Lists([(x, y)], None), model, cbs=[stats], **kwargs).fit(1)
    [(step, row)] = stats.drain()
    assert step == 1
    return row


# --- activations


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
def test_a_unit_is_dead_if_it_is_0_for_the_whole_batch(shape: tuple[int, ...], unit_dim: int, dead: Any) -> None:
    act = torch.randn(shape)
    act[0] = 0.0
    act[dead] = 0.0
    assert activation_statistics(act, unit_dim)[2].item() == pytest.approx(1 / 5)


def test_negative_units_are_not_dead() -> None:
    assert activation_statistics(-torch.rand(8, 4) - 0.1)[2] == 0


@pytest.mark.parametrize(
    ("act", "expected"), [(torch.tensor(-2.0), [-2, 0, 0, 2]), (torch.tensor([0.0, 4.0]), [2, 8**0.5, 0, 4])]
)
def test_scalars_and_batches_of_scalars_are_one_unit(act: Tensor, expected: list[float]) -> None:
    assert activation_statistics(act).tolist() == pytest.approx(expected)


def test_nan_stays_nan() -> None:
    mean, std, dead_frac, max_abs = activation_statistics(torch.tensor([[1.0, math.nan], [0.0, 0.0]])).tolist()
    assert all(map(math.isnan, (mean, std, max_abs)))
    assert dead_frac == 0.0


def test_half_precision_is_computed_in_float32() -> None:
    act = torch.full((100, 30), 60.0, dtype=torch.float16)
    act[0] = 600
    assert activation_statistics(act).tolist() == pytest.approx(activation_statistics(act.double()).tolist(), rel=1e-5)


def test_histogram_counts_between_its_documented_edges() -> None:
    values = torch.cat([10 ** torch.linspace(-4, 3, 500), -(10 ** torch.linspace(-5, 3.1, 300)), torch.zeros(50)])
    edges = histogram_edges()
    assert len(edges) == 82
    assert edges[[0, -1]].tolist() == pytest.approx([-1627.5, 1627.5], abs=0.1)
    expected = np.histogram(values.numpy(), edges.numpy())[0]
    assert histogram(values).tolist() == expected.tolist()
    assert histogram(values)[40] >= 50


def test_histogram_counts_the_far_ends_in_the_outermost_bins_and_nan_nowhere() -> None:
    counts = histogram(torch.tensor([math.inf, 1e9, -1e9, math.nan, 0.0]))
    assert (counts[-1].item(), counts[0].item(), counts[40].item(), counts.sum().item()) == (2, 1, 1, 4)


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_histogram_leaves_the_deterministic_mode_as_it_was(mode: int) -> None:
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(mode)
    try:
        histogram(torch.ones(3))
        assert torch.get_deterministic_debug_mode() == mode
    finally:
        torch.set_deterministic_debug_mode(before)


def test_activations_are_those_of_plain_torch_on_the_same_batch() -> None:
    stats, model, (x, y) = ActivationStats(), digits_mlp(), next(iter(digits().train))
    hidden = model.get_submodule("0")(x).detach()
    outputs = {"0": hidden, "1": hidden.relu(), "2": model.get_submodule("2")(hidden.relu()).detach()}
    expected = {}
    for name, out in outputs.items():
        dead = sum(bool((unit == 0).all()) for unit in out.unbind(1)) / out.shape[1]
        values = (out.mean(), out.std(), dead, out.abs().max())
        for key, value in zip(("mean", "std", "dead_frac", "max_abs"), values, strict=True):
            expected[f"act/{name}/{key}"] = float(value)
    row = first_row(stats, model, x, y, loss_func=cross_entropy)
    assert row == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert row["act/1/dead_frac"] > 0
    counts = stats.histograms()
    assert counts.shape == (1, 3, N_BINS)
    assert torch.equal(counts[0, 1], histogram(outputs["1"]))
    assert counts.sum((0, 2)).tolist() == [64 * 50, 64 * 50, 64 * 10]


def _first_only(module: type[nn.Module]) -> Callable[[str, nn.Module], bool]:
    return lambda name, candidate: isinstance(candidate, module) and name.endswith("0")


@pytest.mark.parametrize(
    ("modules", "layers"),
    [
        (None, ["0", "2.0", "2.1", "4"]),
        (["2.1", "0"], ["0", "2.1"]),
        ([nn.Linear], ["0", "2.0", "4"]),
        ([nn.ReLU, "2"], ["2", "2.1"]),
        (_first_only(nn.Linear), ["0", "2.0"]),
        (["model"], ["model"]),
    ],
)
def test_modules_choose_the_layers(modules: Any, layers: list[str]) -> None:
    block = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), block, nn.Flatten(), nn.Linear(4, 1), nn.Identity())
    stats = ActivationStats(modules=modules)
    row = first_row(stats, model, torch.randn(6, 2), torch.randn(6, 1))
    assert stats.layers == layers
    assert list(row) == [f"act/{layer}/{name}" for layer in layers for name in ("mean", "std", "dead_frac", "max_abs")]


def test_a_model_that_is_one_layer_is_called_model() -> None:
    assert "act/model/mean" in first_row(ActivationStats(), nn.Linear(2, 1), torch.randn(6, 2), torch.randn(6, 1))


@pytest.mark.parametrize(
    ("kind", "modules", "message"),
    [
        (ActivationStats, ["3"], r"has no module '3': it has model, 0, 1, 2\."),
        (ActivationStats, ["modl"], r"Did you mean 'model'\?"),
        (ActivationStats, [nn.Conv2d], "No module was chosen by"),
        (GradientStats, ["0", "1"], r"1 has no trainable parameter of its own: choose among 0, 2\."),
    ],
)
def test_modules_that_fit_nothing_are_an_error_that_names_what_there_is(
    kind: type[Statistics], modules: list[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        digits_learner(kind(modules=modules)).fit(1)


@pytest.mark.parametrize(("modules", "message"), [("0", r"write \[0\]"), ([0], "write a name in quotes, such as '0'")])
def test_modules_that_are_no_list_of_names_are_refused_at_once(modules: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ActivationStats(modules=modules)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"buffer_rows": 0}, {"unit_dim": 2}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ActivationStats(**wrong)  # type: ignore[arg-type]


class Parts(nn.Module):
    """A tuple whose first part is no activation; a layer that never runs; and one that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.unused, self.pair = nn.Linear(2, 2), nn.Linear(2, 2), Pair()

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.pair(self.twice(self.twice(x)))[1][0]
        return values


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return torch.arange(3), [x, x * 2]


def test_tuples_give_their_first_float_tensor_and_layers_that_do_not_run_are_left_out() -> None:
    stats, model, x = ActivationStats(), Parts(), torch.randn(6, 2)
    out = model.twice(model.twice(x))
    row = first_row(stats, model, x, torch.randn(6, 2))
    assert row["act/pair/mean"] == pytest.approx(out.mean().item())
    assert row["act/twice/mean"] == pytest.approx(out.mean().item())
    assert not any("unused" in key for key in row)
    assert stats.history().values["mean"][0].isnan().tolist() == [False, True, False]


# --- gradients, weights, updates


def _norm(*tensors: Tensor) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


@pytest.mark.parametrize("opt_func", [torch.optim.SGD, torch.optim.Adam])
def test_gradients_weights_and_updates_are_those_of_plain_torch(opt_func: Any) -> None:
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
    toy_learner(Lists([(x, y)], None), model, loss_func=cross_entropy, lr=0.1, opt_func=opt_func, cbs=kinds).fit(1)
    row = {key: value for stats in kinds for key, value in stats.drain()[0][1].items()}
    assert row == pytest.approx(expected, rel=1e-5)


def test_frozen_layers_are_not_watched_and_layers_without_gradient_are_left_out() -> None:
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
    """Lets only every third training batch step, as gradient accumulation does."""

    order = 10

    def __init__(self, cancel: type[CancelException]) -> None:
        self.cancel = cancel

    def before_step(self, learn: Learner) -> None:
        if learn.train_iter % 3 != 2:
            raise self.cancel


@pytest.mark.parametrize("cancel", [CancelStepException, CancelBatchException])
@pytest.mark.parametrize("order", [10, 30])
def test_updates_are_of_steps_that_happened(cancel: type[CancelException], order: int) -> None:
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


# --- sampling, draining, the buffer


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_third_batch_is_taken_over_epochs(kind: type[Statistics]) -> None:
    stats, all_of_them = kind(every=3), kind()
    digits_learner(stats, all_of_them).fit(2)
    assert stats.history().steps == [1, 4, 7, 10, 13, 16, 19]
    assert all_of_them.history().steps == list(range(1, 21))
    for name, values in all_of_them.history().values.items():
        assert torch.equal(stats.history().values[name], values[::3])


def test_a_batch_cancelled_before_its_prediction_hands_its_turn_on() -> None:
    class Skip(Callback):
        order = 30

        def before_batch(self, learn: Learner) -> None:
            if learn.training and learn.iter in (3, 4):
                raise CancelBatchException

    stats = ActivationStats(every=3)
    digits_learner(stats, Skip()).fit(1)
    assert stats.history().steps == [1, 6, 7, 10]


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_validation_is_not_watched(kind: type[Statistics]) -> None:
    stats = kind()
    learn = digits_learner(stats)
    learn.fit(1)
    rows = stats.drain()
    learn.validate()
    learn.get_preds()
    assert len(rows) == 10
    assert stats.drain() == []


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_full_buffer_loses_nothing(kind: type[Statistics]) -> None:
    small, large = kind(buffer_rows=3), kind()
    digits_learner(small, large).fit(2)
    assert len(large.history().steps) == 20
    assert_same_history(small.history(), large.history())
    if isinstance(small, ActivationStats) and isinstance(large, ActivationStats):
        assert torch.equal(small.histograms(), large.histograms())
    assert small.drain() == large.drain()


def assert_same_history(one: History, other: History) -> None:
    assert (one.steps, one.layers, list(one.values)) == (other.steps, other.layers, list(other.values))
    for name, values in one.values.items():
        assert torch.equal(values, other.values[name])


class DrainAt(Spy):
    """Drains at one event, as a tracker does."""

    def __init__(self, stats: Statistics, event: Event) -> None:
        super().__init__()
        self.stats, self.event, self.chunks = stats, event, list[list[tuple[int, dict[str, float]]]]()

    def on(self, event: Event, learn: Learner) -> None:
        if event is self.event:
            self.chunks.append(self.stats.drain())


@pytest.mark.parametrize("event", [Event.AFTER_BATCH, Event.AFTER_EPOCH, Event.CLEANUP_FIT])
@pytest.mark.parametrize("buffer_rows", [1, 3, 256])
def test_drained_rows_are_new_each_time_and_complete_in_the_end(event: Event, buffer_rows: int) -> None:
    stats, reference = ActivationStats(buffer_rows=buffer_rows), ActivationStats()
    drained = DrainAt(stats, event)
    digits_learner(stats, reference, drained).fit(2)
    assert [row for chunk in drained.chunks for row in chunk] == reference.drain()
    assert stats.drain() == []
    assert_same_history(stats.history(), reference.history())


def test_rows_are_there_before_during_and_after_a_fit_and_a_new_fit_begins_anew() -> None:
    stats = ActivationStats(every=4)
    assert (stats.drain(), stats.history().steps, len(stats.histograms())) == ([], [], 0)
    learn = digits_learner(stats)
    learn.fit(1)
    assert [step for step, _ in stats.drain()] == [1, 5, 9]
    learn.fit(1)
    assert stats.history().steps == [11, 13, 17]


def test_the_place_in_the_sampling_is_restored() -> None:
    stats, resumed = GradientStats(every=7), GradientStats(every=7)

    class Resume(Callback):
        order = 80

        def before_fit(self, learn: Learner) -> None:
            learn.train_iter = 10
            resumed.load_state_dict(stats.state_dict())

    digits_learner(stats).fit(1)
    digits_learner(resumed, Resume()).fit(1)
    assert stats.history().steps == [1, 8]
    assert resumed.history().steps == [15]


def test_batches_read_nothing_from_the_device() -> None:
    reads = []
    for n_batch in (10, 20):
        stats = [kind() for kind in EVERY_KIND]
        learn = digits_learner(*stats, n_batch=n_batch)
        with counted_reads() as counter:
            learn.fit(1)
        reads.append(counter.n)
        assert [len(one.drain()) for one in stats] == [n_batch] * 4
    assert reads[0] == reads[1]


def test_a_drain_is_one_copy() -> None:
    stats = ActivationStats()
    drained = DrainAt(stats, Event.AFTER_FIT)
    counts = []
    for cbs in ((stats,), (stats, drained)):
        learn = digits_learner(*cbs)
        with counted_reads() as counter:
            learn.fit(1)
        counts.append(counter.n)
    # The rows that a drain has copied need not be copied at the end of the fit; what remains is its list of floats.
    assert counts[1] == counts[0] + 1


def test_training_is_bit_for_bit_the_same_with_all_statistics() -> None:
    def model() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(64, 30), nn.BatchNorm1d(30), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(30, 10))

    runs = []
    for cbs in ([], [kind() for kind in EVERY_KIND]):
        learn = digits_learner(*cbs, model=model(), opt_func=torch.optim.Adam)
        torch.manual_seed(2)
        learn.fit(2)
        runs.append((learn.recorder.losses, learn.model.state_dict(), torch.get_rng_state()))
    assert torch.equal(runs[0][0], runs[1][0])
    assert all(torch.equal(value, runs[1][1][name]) for name, value in runs[0][1].items())
    assert torch.equal(runs[0][2], runs[1][2])


# --- nothing is left behind


class CountHooks(Spy):
    """Counts the hooks on the model at the events between batches and in unsampled ones."""

    order = 40

    def __init__(self) -> None:
        super().__init__()
        self.n: dict[str, set[int]] = {}

    def on(self, event: Event, learn: Learner) -> None:
        part = "train" if learn.training else "valid"
        self.n.setdefault(f"{event}/{part}/{learn.train_iter % 3}", set()).add(n_hooks(learn.model))


def test_hooks_are_on_only_while_a_chosen_training_batch_runs() -> None:
    counts = CountHooks()
    digits_learner(ActivationStats(every=3), counts).fit(1)
    assert counts.n.pop("before_batch/train/0") == {3}
    assert set().union(*counts.n.values()) == {0}


@pytest.mark.parametrize(
    "event", [Event.BEFORE_BATCH, Event.AFTER_PRED, Event.AFTER_LOSS, Event.BEFORE_STEP, Event.AFTER_EPOCH]
)
@pytest.mark.parametrize(
    "err",
    [
        CancelBatchException(),
        CancelTrainException(),
        CancelEpochException(),
        CancelFitException(),
        ValueError("no"),
        KeyboardInterrupt(),
    ],
    ids=lambda err: type(err).__name__,
)
@pytest.mark.parametrize("order", [-5, 30])
def test_hooks_and_buffers_are_gone_however_the_fit_ends(event: Event, err: BaseException, order: int) -> None:
    stats = [kind() for kind in EVERY_KIND]
    raising = RaiseAt(event, err)
    raising.order = order  # type: ignore[misc]
    learn = digits_learner(*stats, raising, n_batch=3)
    with suppress(ValueError, KeyboardInterrupt, CancelException):
        learn.fit(2)
    assert raising.raised
    assert n_hooks(learn.model) == 0
    for one in stats:
        assert one._buffer is not None
        assert one._buffer._rows is None
        assert one._watched == []
        assert len(one.drain()) == len(one.history().steps)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_cleanup_tolerates_a_fit_that_never_began(kind: type[Statistics]) -> None:
    stats = kind()
    learn = digits_learner(stats, RaiseAt(Event.BEFORE_FIT, ValueError("no")))
    learn.cbs = sorted(learn.cbs, key=lambda cb: isinstance(cb, Statistics))
    with pytest.raises(ValueError, match="no"):
        learn.fit(1)
    assert stats.drain() == []


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


def test_your_own_statistic_needs_a_prefix_names_and_a_row() -> None:
    class BiasMean(ParameterStatistics):
        prefix, names = "bias", ("mean",)

        def after_step(self, learn: Learner) -> None:
            if self._is_due(learn):
                self._record(
                    learn, torch.stack([module.get_parameter("bias").detach().mean() for module in self._watched]), [0, 1]
                )

    stats = BiasMean(every=10)
    learn = digits_learner(stats, n_batch=1)
    learn.fit(1)
    biases = {f"bias/{i}/mean": learn.model.get_parameter(f"{i}.bias").mean().item() for i in (0, 2)}
    [(step, row)] = stats.drain()
    assert step == 1
    assert row == pytest.approx(biases)


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
