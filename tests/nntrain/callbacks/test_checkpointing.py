"""A resumed fit equals an uninterrupted fit bit for bit."""

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nntrain import Callback, CancelFitException, FitResult, Learner, StopReason, accuracy
from nntrain.callbacks import (
    EMA,
    Checkpoint,
    EarlyStopping,
    GradientAccumulation,
    LRScheduler,
    MixUp,
    ReduceLROnPlateau,
    SaveModel,
    TimeLimit,
)
from nntrain.checkpoint import (
    CheckpointError,
    CheckpointWriteError,
    read_checkpoint,
    write_checkpoint,
)
from nntrain.core.partial import partial_file
from nntrain.core.rng import seed_everything
from nntrain.data.tensors import TensorLoader
from nntrain.metrics import AccumMetric, AvgSmoothLoss
from nntrain.schedule import OneCycle
from nntrain.testing import SpyCallback
from tests.common.disk import FullDisk
from tests.common.runs import InterruptAt, assert_identical, outcome
from tests.common.toys import Lists, toy_learner

N_EPOCH = 3
N_BATCH = 5


def _tensors() -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(1)
    x = torch.randn(60, 4, generator=gen)
    return x, (x.sum(1) > 0).long()


def _lists(train: Any) -> Lists:
    x, y = _tensors()
    return Lists(train, DataLoader(TensorDataset(x[40:], y[40:]), batch_size=8))


def _dataset() -> TensorDataset:
    x, y = _tensors()
    return TensorDataset(x[:40], y[:40])


def shuffled() -> Lists:
    return _lists(DataLoader(_dataset(), batch_size=8, shuffle=True))


def own_generator() -> Lists:
    return _lists(
        DataLoader(
            _dataset(), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(5)
        )
    )


def workers() -> Lists:
    return _lists(DataLoader(_dataset(), batch_size=8, shuffle=True, num_workers=1))


def on_device() -> Lists:
    return _lists(TensorLoader(*_dataset().tensors, batch_size=8, shuffle=True))


class Unending:
    """A loader without a length that draws new noise for each batch from the global generator."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in zip(*(tensor.split(8) for tensor in _dataset().tensors), strict=True):
            yield x + torch.randn_like(x), y


def no_length() -> Lists:
    return _lists(Unending())


def _accumulation() -> list[Callback]:
    return [GradientAccumulation(16)]


def _ema() -> list[Callback]:
    return [EMA(0.9)]


def _per_batch_and_epoch() -> list[Callback]:
    step_lr = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.7)
    return [LRScheduler(step_lr, per="batch"), ReduceLROnPlateau(patience=1, min_delta=10.0)]


def _one_cycle() -> list[Callback]:
    return [OneCycle()]


def _all() -> list[Callback]:
    return [OneCycle(), EMA(0.9), GradientAccumulation(24), MixUp(0.4)]


def _none() -> list[Callback]:
    return []


SGD = partial(torch.optim.SGD, momentum=0.9)
CASES = {
    "shuffled-adam-one_cycle": (shuffled, torch.optim.Adam, _one_cycle),
    "own_generator-sgd-ema": (own_generator, SGD, _ema),
    "on_device-adam-accumulation": (on_device, torch.optim.Adam, _accumulation),
    "no_length-sgd-one_cycle": (no_length, SGD, _one_cycle),
    "shuffled-sgd-schedulers": (shuffled, SGD, _per_batch_and_epoch),
    "own_generator-adamw-all": (own_generator, torch.optim.AdamW, _all),
    "no_length-adam-none": (no_length, torch.optim.Adam, _none),
}


def _model() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2)
    )


def _learner(case: str, *cbs: Callback) -> Learner:
    make_dls, opt_func, make_cbs = CASES[case]
    seed_everything(3)
    metrics = [accuracy, AvgSmoothLoss(), AccumMetric(accuracy, flatten=False, name="whole")]
    return toy_learner(
        make_dls(),
        _model(),
        loss_func=nn.functional.cross_entropy,
        opt_func=opt_func,
        metrics=metrics,
        lr=0.01,
        cbs=[*make_cbs(), *cbs],
    )


def _uninterrupted(case: str) -> dict[str, Any]:
    learn = _learner(case)
    learn.fit(N_EPOCH)
    return outcome(learn)


def _resumed(
    case: str, *, folder: Path = Path("checkpoints"), every_epoch: int = 1
) -> dict[str, Any]:
    learn = _learner(case, Checkpoint(folder, every_epoch, resume=folder / "last.ckpt"))
    seed_everything(99)  # the new process may have drawn random numbers before the resume
    result = learn.fit(N_EPOCH)
    assert result.reason is StopReason.COMPLETED
    assert result.n_epoch == N_EPOCH
    return outcome(learn)


@pytest.mark.parametrize(
    "place", [(0, 0, True), (1, 2, True), (1, 4, True), (2, 1, False)], ids=str
)
@pytest.mark.parametrize("case", CASES)
def test_resumed_fit_equals_the_uninterrupted_one_bit_for_bit(
    case: str, place: tuple[int, int, bool]
) -> None:
    epoch, iteration, training = place
    result = _learner(case, Checkpoint(), InterruptAt(epoch, iteration, training=training)).fit(
        N_EPOCH
    )
    assert result.reason is StopReason.INTERRUPTED
    assert_identical(_resumed(case), _uninterrupted(case))


class CountsEpochs(Callback):
    """Counts in place and keeps a reference to the loaded tensor, as a careless callback would."""

    def __init__(self) -> None:
        self.count = torch.zeros(())

    def before_train(self, learn: Learner) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Any) -> None:
        self.count = state["count"]


@pytest.mark.parametrize("stop", [InterruptAt(1, 2), InterruptAt(1, 0, training=False)])
def test_events_that_run_again_on_the_way_to_the_position_count_once(stop: Callback) -> None:
    case = "no_length-adam-none"
    _learner(case, Checkpoint(), CountsEpochs(), stop).fit(N_EPOCH)
    counts = CountsEpochs()
    _learner(case, Checkpoint(resume="checkpoints/last.ckpt"), counts).fit(N_EPOCH)
    assert counts.count == N_EPOCH


@pytest.mark.parametrize(
    ("stop", "n_left"), [(InterruptAt(1, 2), 2), (InterruptAt(1, 0, training=False), 0)]
)
def test_trained_batches_are_not_repeated_on_resume(stop: Callback, n_left: int) -> None:
    case, spy = "no_length-adam-none", SpyCallback()
    _learner(case, Checkpoint(), stop).fit(N_EPOCH)
    _learner(case, Checkpoint(resume="checkpoints/last.ckpt"), spy).fit(N_EPOCH)
    assert spy.events.count("before_backward") == n_left + N_BATCH


@pytest.mark.slow
@pytest.mark.parametrize("iteration", [1, 4])
def test_resumed_fit_with_a_worker_process_equals_the_uninterrupted_one(
    iteration: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CASES, "workers", (workers, SGD, _none))
    _learner("workers", Checkpoint(), InterruptAt(1, iteration)).fit(N_EPOCH)
    assert_identical(_resumed("workers"), _uninterrupted("workers"))


@pytest.mark.parametrize("case", ["own_generator-adamw-all", "no_length-sgd-one_cycle"])
def test_fit_interrupted_again_while_it_is_resumed_equals_the_uninterrupted_one(case: str) -> None:
    _learner(case, Checkpoint(), InterruptAt(1, 1)).fit(N_EPOCH)
    for place in (
        InterruptAt(1, 3),
        InterruptAt(1, 0, training=False),
        InterruptAt(1, 2, training=False),
        InterruptAt(2, 0),
    ):
        learn = _learner(case, Checkpoint(resume="checkpoints/last.ckpt"), place)
        assert learn.fit(N_EPOCH).reason is StopReason.INTERRUPTED
    assert_identical(_resumed(case), _uninterrupted(case))


@pytest.mark.parametrize("case", ["own_generator-sgd-ema", "shuffled-sgd-schedulers"])
def test_crashed_fit_resumes_from_the_checkpoint_of_the_last_epoch(case: str) -> None:
    class Crash(Callback):
        def after_pred(self, learn: Learner) -> None:
            if (learn.epoch, learn.iter) == (2, 3):
                raise OSError("power cut")

    with pytest.raises(OSError, match="power cut"):
        _learner(case, Checkpoint(), Crash()).fit(N_EPOCH)
    assert_identical(_resumed(case), _uninterrupted(case))


def test_checkpoint_itself_changes_nothing() -> None:
    case = "own_generator-adamw-all"
    learn = _learner(case, Checkpoint())
    learn.fit(N_EPOCH)
    assert_identical(outcome(learn), _uninterrupted(case))


def _position(path: str = "checkpoints/last.ckpt") -> tuple[int, int, bool]:
    state = read_checkpoint(path)
    return state["epoch"], state["n_done"], state["trained"]


@pytest.mark.parametrize(
    ("every_epoch", "stop", "position"),
    [
        (1, InterruptAt(1, 2), (1, 3, False)),
        (1, InterruptAt(1, 4), (1, 5, False)),
        (1, InterruptAt(1, 0, training=False), (1, 5, True)),
        (2, InterruptAt(2, 1), (2, 2, False)),
        (2, None, (3, 0, False)),
    ],
)
def test_position_of_the_checkpoint_is_the_interrupted_batch(
    every_epoch: int, stop: Callback | None, position: tuple[int, int, bool]
) -> None:
    cbs = [Checkpoint(every_epoch=every_epoch), *([stop] if stop else [])]
    _learner("no_length-adam-none", *cbs).fit(N_EPOCH)
    assert _position() == position


class CancelAt(SpyCallback):
    """Interrupts the fit at an event of epoch 1, from a given iteration on."""

    def __init__(self, event: str, iteration: int = 0) -> None:
        super().__init__()
        self.event, self.iteration = event, iteration

    def on(self, event: Any, learn: Learner) -> None:
        if event == self.event and learn.epoch == 1 and learn.iter >= self.iteration:
            raise CancelFitException(reason=StopReason.INTERRUPTED)


class LateCancelAt(CancelAt):
    order = 100


@pytest.mark.parametrize(
    ("stop", "position"),
    [
        (CancelAt("after_pred"), (1, 0, False)),
        (CancelAt("after_pred", 2), (1, 0, False)),
        (CancelAt("after_step", 3), (1, 0, False)),
        (CancelAt("before_epoch"), (1, 0, False)),
        (CancelAt("before_train"), (1, 0, False)),
        (CancelAt("before_validate"), (1, 5, True)),
        (CancelAt("after_epoch"), (1, 5, True)),
        (LateCancelAt("after_epoch"), (2, 0, False)),
    ],
    ids=lambda value: (
        f"{type(value).__name__}-{value.event}-{value.iteration}"
        if isinstance(value, CancelAt)
        else ""
    ),
)
def test_interrupt_within_a_batch_or_between_parts_saves_a_checkpoint_that_resumes_exactly(
    stop: Callback, position: tuple[int, int, bool]
) -> None:
    case = "shuffled-adam-one_cycle"
    _learner(case, Checkpoint(), stop).fit(N_EPOCH)
    assert _position() == position
    assert_identical(_resumed(case), _uninterrupted(case))


def test_interrupt_after_an_epoch_without_a_due_checkpoint_saves_its_end() -> None:
    case = "own_generator-sgd-ema"
    _learner(case, Checkpoint(every_epoch=5), LateCancelAt("after_epoch")).fit(N_EPOCH)
    assert _position() == (2, 0, False)
    assert_identical(_resumed(case), _uninterrupted(case))


@pytest.mark.parametrize(
    "resume", ["checkpoints", "checkpoints/previous.ckpt", Path("checkpoints/last.ckpt")], ids=str
)
def test_folder_previous_and_last_checkpoint_can_be_resumed(resume: str | Path) -> None:
    case = "own_generator-sgd-ema"
    _learner(case, Checkpoint(), InterruptAt(2, 3)).fit(N_EPOCH)
    learn = _learner(case, Checkpoint("other", resume=resume))
    learn.fit(N_EPOCH)
    assert_identical(outcome(learn), _uninterrupted(case))


def test_previous_checkpoint_is_kept() -> None:
    learn = _learner("no_length-adam-none", Checkpoint())
    learn.fit(N_EPOCH)
    assert _position("checkpoints/last.ckpt") == (3, 0, False)
    assert _position("checkpoints/previous.ckpt") == (2, 0, False)
    assert sorted(path.name for path in Path("checkpoints").iterdir()) == [
        "last.ckpt",
        "previous.ckpt",
    ]


def test_epoch_that_was_just_saved_is_not_saved_twice() -> None:
    _learner("no_length-adam-none", Checkpoint(), LateCancelAt("after_epoch")).fit(N_EPOCH)
    assert _position("checkpoints/last.ckpt") == (2, 0, False)
    assert _position("checkpoints/previous.ckpt") == (1, 0, False)


def test_finished_fit_resumed_returns_at_once_with_its_metrics() -> None:
    case = "own_generator-sgd-ema"
    learn = _learner(case, Checkpoint())
    first = learn.fit(N_EPOCH)
    spy = SpyCallback()
    again = _learner(case, Checkpoint(resume="checkpoints/last.ckpt"), spy)
    assert again.fit(N_EPOCH) == first
    assert "before_epoch" not in spy.events
    assert_identical(outcome(again), outcome(learn))


def test_finished_fit_continues_with_a_larger_n_epoch() -> None:
    learn = _learner("on_device-adam-accumulation", Checkpoint())
    learn.fit(2)
    assert_identical(
        _resumed("on_device-adam-accumulation"), _uninterrupted("on_device-adam-accumulation")
    )


def test_raised_n_epoch_stretches_the_position_within_an_epoch() -> None:
    positions: list[float] = []

    class Look(Callback):
        def before_batch(self, learn: Learner) -> None:
            positions.append(learn.pct_train)

    _learner("shuffled-adam-one_cycle", Checkpoint(), InterruptAt(1, 2)).fit(2)
    _learner(
        "shuffled-adam-one_cycle", Checkpoint(resume="checkpoints"), Look(), InterruptAt(1, 3)
    ).fit(4)
    assert positions == [pytest.approx((1 + 3 / N_BATCH) / 4)]


def test_fit_that_stopped_early_stops_again_unless_it_is_given_more_patience() -> None:
    def fit(patience: int, **kwargs: Any) -> tuple[Learner, FitResult]:
        stop = EarlyStopping(min_delta=10.0, patience=patience)
        learn = _learner("shuffled-adam-one_cycle", Checkpoint(**kwargs), stop)
        return learn, learn.fit(N_EPOCH)

    learn, first = fit(1)
    assert (first.reason, first.n_epoch) == (StopReason.EARLY_STOPPED, 2)
    again, second = fit(1, resume="checkpoints")
    assert second == first
    assert_identical(outcome(again), outcome(learn))
    _, third = fit(3, resume="checkpoints")
    assert (third.reason, third.n_epoch) == (StopReason.COMPLETED, N_EPOCH)


def test_pruned_fit_resumes_from_the_last_saved_epoch() -> None:
    class PruneInEpoch1(Callback):
        order = 70

        def after_epoch(self, learn: Learner) -> None:
            if learn.epoch == 1:
                raise CancelFitException("behind the others", reason=StopReason.PRUNED)

    case = "shuffled-adam-one_cycle"
    assert _learner(case, Checkpoint(), PruneInEpoch1()).fit(N_EPOCH).reason is StopReason.PRUNED
    assert _position() == (1, 0, False)
    assert_identical(_resumed(case), _uninterrupted(case))


def test_second_fit_with_the_same_callback_starts_from_scratch() -> None:
    _learner("no_length-adam-none", Checkpoint(), InterruptAt(1, 2)).fit(N_EPOCH)
    learn = _learner("no_length-adam-none", Checkpoint(resume="checkpoints/last.ckpt"))
    learn.fit(N_EPOCH)
    assert learn.fit(1).n_epoch == 1
    assert learn.train_iter == N_BATCH * (N_EPOCH + 1)


def test_gradients_in_flight_are_kept() -> None:
    case = "on_device-adam-accumulation"
    learn = _learner(case, Checkpoint(), InterruptAt(0, 2))
    learn.fit(N_EPOCH)
    grads = read_checkpoint("checkpoints/last.ckpt")["grads"]
    assert_identical(grads, {name: param.grad for name, param in learn.model.named_parameters()})
    assert all(bool(grad.any()) for grad in grads.values() if grad.dim() == 2)


def test_leftovers_of_a_killed_write_are_removed_at_the_next_fit() -> None:
    Path("checkpoints").mkdir()
    Path("checkpoints/.nntrain-abcdefgh.part").write_bytes(b"half")
    Path("checkpoints/notes.part").write_text("not ours")
    _learner("no_length-adam-none", Checkpoint()).fit(1)
    assert sorted(os.listdir("checkpoints")) == ["last.ckpt", "notes.part"]


def test_leftovers_in_the_folder_that_is_resumed_are_removed_too() -> None:
    _interrupted()
    leftover = Path("checkpoints/.nntrain-abcdefgh.part")
    leftover.write_bytes(b"half")
    with partial_file(Path("checkpoints")) as (_, of_a_living_process):
        _learner("no_length-adam-none", Checkpoint("new", resume="checkpoints")).fit(N_EPOCH)
        assert of_a_living_process.exists()
    assert not leftover.exists()


def test_full_disk_costs_checkpoints_but_does_not_end_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = "own_generator-sgd-ema"
    learn = _learner(case, Checkpoint(), FullDisk([1, 2]))
    learn.fit(N_EPOCH)
    assert_identical(outcome(learn), _uninterrupted(case))
    assert [record.getMessage() for record in caplog.records] == [
        "checkpoints/last.ckpt could not be written (the previous file is unchanged): "
        "File too large; training continues",
        "2 of 3 saves of checkpoints/last.ckpt failed (File too large), and so did the last one",
    ]
    assert os.listdir("checkpoints") == ["last.ckpt"]
    resumed = _learner(case, Checkpoint(resume="checkpoints"))
    resumed.fit(N_EPOCH)
    assert_identical(outcome(resumed), _uninterrupted(case))


def test_disk_that_is_full_for_a_while_costs_one_checkpoint(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _learner("no_length-adam-none", Checkpoint(), FullDisk([1])).fit(N_EPOCH)
    assert _position("checkpoints/last.ckpt") == (3, 0, False)
    assert _position("checkpoints/previous.ckpt") == (1, 0, False)
    assert caplog.messages[-1] == "1 of 3 saves of checkpoints/last.ckpt failed (File too large)"


def test_full_disk_stops_training_if_wanted() -> None:
    learn = _learner("no_length-adam-none", Checkpoint(on_error="stop"), FullDisk([1]))
    with pytest.raises(CheckpointWriteError, match=r"^checkpoints/last.ckpt could not be written"):
        learn.fit(N_EPOCH)
    assert _position("checkpoints/last.ckpt") == (1, 0, False)
    assert os.listdir("checkpoints") == ["last.ckpt"]


@pytest.mark.parametrize("make", [Checkpoint, SaveModel])
def test_unknown_policy_is_refused(make: Callable[..., Callback]) -> None:
    with pytest.raises(ValueError, match=rf"on_error='ignore' of {make.__name__} must be 'warn'"):
        make(on_error="ignore")


_ODD = [None, -1, {"x": 1}]

_ENTRIES = [
    *(["model"], ["opt"], ["opt_class"], ["grads"], ["callbacks"], ["watchers"], ["rng"]),
    *(["n_epoch"], ["train_iter"], ["pct_train"], ["epoch"], ["n_done"], ["trained"]),
    *(["rng_before"], ["rng", "torch"], ["rng", "python"], ["rng", "loaders"]),
    *(["rng_before", "torch"], ["opt", "param_groups"], ["opt", "state"]),
    *(["callbacks", "Recorder.0"], ["callbacks", "EMA.0"]),
    *(["callbacks", "Recorder.0", "rows"], ["callbacks", "SaveModel.0", "saved"]),
]


@contextmanager
def refused_or_valid(path: str) -> Iterator[None]:
    """Checks that the only exception in the block is a `CheckpointError` that names the file."""
    try:
        yield
    except CheckpointError as err:
        if not str(err).startswith(f"{path} does not match "):
            raise


@pytest.mark.parametrize("keys", _ENTRIES, ids=".".join)
def test_checkpoint_with_odd_values_is_refused_in_one_sentence(keys: list[str]) -> None:
    case = "own_generator-sgd-ema"
    _learner(case, Checkpoint(), SaveModel(), InterruptAt(1, 2)).fit(N_EPOCH)
    state = read_checkpoint("checkpoints/last.ckpt")
    for value in _ODD:
        odd = copy.deepcopy(state)
        inner = odd
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        write_checkpoint(odd, "odd.ckpt")
        learn = _learner(case, Checkpoint(resume="odd.ckpt"), SaveModel())
        with refused_or_valid("odd.ckpt"):
            learn.fit(N_EPOCH)


def _interrupted(case: str = "no_length-adam-none") -> None:
    _learner(case, Checkpoint(), InterruptAt(1, 2)).fit(N_EPOCH)


def _without_length(**kwargs: Any) -> Learner:
    options: dict[str, Any] = {
        "loss_func": nn.functional.cross_entropy,
        "opt_func": torch.optim.Adam,
    }
    return toy_learner(no_length(), kwargs.pop("model", _model()), **options | kwargs)


MISFITS: dict[str, tuple[Callable[..., Learner], str]] = {
    "deeper model": (
        lambda *cbs: _without_length(
            model=nn.Sequential(*_model(), nn.ReLU(), nn.Linear(2, 2)), cbs=cbs
        ),
        r"last.ckpt does not match the model: missing 6.weight, 6.bias\.\n",
    ),
    "smaller model": (
        lambda *cbs: _without_length(model=nn.Linear(4, 2), cbs=cbs),
        r"missing weight, bias; unexpected 0.weight, 0.bias, 1.weight and 6 more\.\n",
    ),
    "wider model": (
        lambda *cbs: _without_length(
            model=nn.Sequential(*list(_model())[:-1], nn.Linear(16, 3)), cbs=cbs
        ),
        r"wrong shapes: 4.weight \(2, 16\) instead of \(3, 16\), "
        r"4.bias \(2,\) instead of \(3,\)\.\n",
    ),
    "optimizer": (
        lambda *cbs: _without_length(opt_func=torch.optim.SGD, cbs=cbs),
        r"does not match the optimizer: saved with Adam, not SGD\.\n",
    ),
    "callbacks": (
        lambda *cbs: _without_length(cbs=[*cbs, EMA(), TimeLimit(1000)]),
        r"does not match the callbacks: missing EMA.0, TimeLimit.0\.\n",
    ),
    "loader": (
        lambda *cbs: toy_learner(own_generator(), _model(), opt_func=torch.optim.Adam, cbs=cbs),
        r"does not match the loaders: .* has \[0, 0\] random generators \(train, valid\), "
        r"but the loaders have \[1, 0\]\.\n",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_checkpoint_of_another_learner_is_refused_in_one_sentence_and_changes_nothing(
    name: str,
) -> None:
    _interrupted()
    make, message = MISFITS[name]
    learn = make(Checkpoint(resume="checkpoints/last.ckpt"))
    before = {key: value.clone() for key, value in learn.model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        learn.fit(N_EPOCH)
    assert_identical(dict(learn.model.state_dict()), before)
    assert learn.train_iter == 0


def test_data_with_fewer_batches_than_were_trained_is_refused() -> None:
    _interrupted()
    x, y = _tensors()
    learn = _without_length(cbs=[Checkpoint(resume="checkpoints/last.ckpt")])
    learn.dls = Lists([(x[:8], y[:8])], None)
    with pytest.raises(CheckpointError, match="yielded only 1 batches, but 3 were trained"):
        learn.fit(N_EPOCH)


def test_file_of_learner_save_is_refused_with_a_remedy() -> None:
    _without_length().save("model.pt")
    with pytest.raises(CheckpointError, match=r"load it with Learner\.load"):
        _without_length(cbs=[Checkpoint(resume="model.pt")]).fit(1)


def test_missing_checkpoint_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"The checkpoint nowhere\.ckpt does not exist\."):
        _without_length(cbs=[Checkpoint(resume="nowhere.ckpt")]).fit(1)


def test_every_epoch_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="every_epoch=0 must be at least 1"):
        Checkpoint(every_epoch=0)


def test_cleanup_without_a_fit_is_harmless() -> None:
    Checkpoint().cleanup_fit(_without_length())
