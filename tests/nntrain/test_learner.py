"""The Learner equals a plain PyTorch loop bit for bit; its parts can be changed."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from nntrain import Callback, CancelFitException, Event, Learner, Recorder, StopReason, accuracy
from nntrain.checkpoint import CheckpointError
from nntrain.core.rng import seed_everything
from nntrain.testing import RaiseAt, SpyCallback
from tests.common.reference import digits_learner, small_digits_lists
from tests.common.toys import Lists, batches, digits_mlp, regression_lists, toy_learner

# --- comparison with a handwritten loop


def plain_loop(
    model: nn.Module,
    lists: Lists,
    loss_func: Callable[..., Tensor],
    opt: torch.optim.Optimizer,
    n_epoch: int,
) -> list[float]:
    losses = []
    for _ in range(n_epoch):
        model.train()
        for x, y in lists.train:
            loss = loss_func(model(x), y)
            loss.backward()
            opt.step()
            opt.zero_grad()
            losses.append(loss.item())
    return losses


def with_dropout() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10)
    )


@pytest.mark.parametrize(
    "opt_func", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop]
)
@pytest.mark.parametrize("make", [digits_mlp, with_dropout])
def test_losses_and_weights_equal_those_of_a_plain_loop_bit_for_bit(
    make: Callable[[], nn.Module], opt_func: Any
) -> None:
    lists, loss_func = small_digits_lists(), nn.functional.cross_entropy
    model, ours = make(), make()
    torch.manual_seed(2)
    expected = plain_loop(model, lists, loss_func, opt_func(model.parameters(), lr=0.01), 3)
    torch.manual_seed(2)
    learn = Learner(
        ours, lists, loss_func, lr=0.01, opt_func=opt_func, metrics=[accuracy], device="cpu"
    )
    learn.fit(3)
    assert learn.recorder.losses.tolist() == expected
    for name, value in model.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_validation_metrics_cover_the_whole_set() -> None:
    learn = digits_learner()
    learn.fit(1)
    x, y = (torch.cat(parts) for parts in zip(*small_digits_lists().valid or [], strict=True))
    with torch.no_grad():
        pred = learn.model(x)
    assert learn.recorder.last("valid/loss") == pytest.approx(
        nn.functional.cross_entropy(pred, y).item(), rel=1e-6
    )
    assert learn.recorder.last("valid/accuracy") == pytest.approx(
        (pred.argmax(1) == y).float().mean().item(), rel=1e-6
    )


def shuffled_learner() -> Learner:
    seed_everything(7)
    x, y = (torch.cat(parts) for parts in zip(*small_digits_lists().train, strict=True))
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)
    return Learner(
        with_dropout(), Lists(loader, loader), nn.functional.cross_entropy, lr=0.05, device="cpu"
    )


def test_the_same_seed_gives_the_same_losses_bit_for_bit() -> None:
    first, second = shuffled_learner(), shuffled_learner()
    seed_everything(3)
    first.fit_one_cycle(2)
    seed_everything(3)
    second.fit_one_cycle(2)
    assert torch.equal(first.recorder.losses, second.recorder.losses)
    assert [row["valid/loss"] for row in first.recorder.rows] == [
        row["valid/loss"] for row in second.recorder.rows
    ]


def test_another_seed_gives_another_order() -> None:
    first, second = shuffled_learner(), shuffled_learner()
    seed_everything(3)
    first.fit(1)
    seed_everything(4)
    second.fit(1)
    assert not torch.equal(first.recorder.losses, second.recorder.losses)


# --- batches of every kind


def test_without_labels_the_inputs_are_the_target() -> None:
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    items = list(x.split(5))
    learn = Learner(
        nn.Linear(3, 3),
        Lists(items, items),
        nn.functional.mse_loss,
        metrics=[nn.functional.l1_loss],
        device="cpu",
    )
    learn.fit(1, lr=0.0)
    expected = nn.functional.mse_loss(learn.model(x), x).item()
    assert learn.recorder.last("valid/loss") == pytest.approx(expected, rel=1e-6)
    assert learn.recorder.last("train/l1_loss") == pytest.approx(
        nn.functional.l1_loss(learn.model(x), x).item(), rel=1e-6
    )
    assert learn.get_preds()[1] is None


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.scale * (left + right)


LEFT, RIGHT = torch.arange(4.0), torch.arange(4.0) * 10
TARGET = LEFT + RIGHT + 1


def dict_batches(label: str) -> list[dict[str, Tensor]]:
    return [{"right": RIGHT, "left": LEFT, label: TARGET}]


@pytest.mark.parametrize(
    "items",
    [
        [(LEFT, RIGHT, TARGET)],
        [[LEFT, RIGHT, TARGET]],
        dict_batches("labels"),
        dict_batches("label"),
        dict_batches("target"),
    ],
    ids=["tuple", "list", "labels", "label", "target"],
)
def test_several_inputs_come_by_position_or_by_name(items: list[Any]) -> None:
    learn = Learner(Sum(), Lists(items, items), nn.functional.mse_loss, device="cpu")
    learn.fit(1, lr=0.0)
    assert learn.recorder.last("valid/loss") == 1.0
    preds, labels = learn.get_preds()
    assert preds.tolist() == [0, 11, 22, 33]
    assert labels is not None
    assert torch.equal(labels, TARGET)


def test_n_inp_of_the_loaders_splits_the_batch() -> None:
    lists = Lists([(LEFT, TARGET, RIGHT)], None)
    lists.n_inp = 1  # type: ignore[attr-defined]
    seen: list[int] = []

    def loss_func(pred: Tensor, first: Tensor, second: Tensor) -> Tensor:
        seen.append(int((first - second).sum()))
        return (pred - first - second).mean()

    Learner(Scale(), lists, loss_func, device="cpu").fit(1)
    assert seen == [int((TARGET - RIGHT).sum())]


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


class Generated:
    """A loader that makes a new generator for each epoch and has no length."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return (item for item in self.items)


class Stream(IterableDataset[Any]):
    def __init__(self, items: Any) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


@pytest.mark.parametrize(
    "wrap",
    [Generated, lambda items: DataLoader(Stream(items), batch_size=None)],
    ids=["generator", "IterableDataset"],
)
def test_a_loader_without_a_length_gives_the_same_fit(wrap: Callable[[Any], Any]) -> None:
    lists = regression_lists()
    plain, learn = toy_learner(lists), toy_learner(Lists(wrap(lists.train), wrap(lists.valid)))
    plain.fit(2)
    learn.fit(2)
    assert learn.n_iter is None
    assert torch.equal(learn.recorder.losses, plain.recorder.losses)
    assert learn.recorder.last("valid/loss") == plain.recorder.last("valid/loss")


@pytest.mark.parametrize(("n_train", "n_batch"), [(8, 1), (9, 2), (1, 1), (16, 2)])
def test_a_single_batch_and_a_last_batch_of_one_item_train(n_train: int, n_batch: int) -> None:
    learn = toy_learner(regression_lists(n_train, n_train, bs=8))
    learn.fit(2)
    assert (learn.n_iter, learn.train_iter, len(learn.recorder.losses)) == (
        n_batch,
        2 * n_batch,
        2 * n_batch,
    )
    assert learn.pct_train == 1.0


def test_without_a_validation_set_there_is_only_training() -> None:
    spy = SpyCallback()
    learn = toy_learner(Lists(regression_lists().train, None), cbs=[spy])
    assert learn.fit(2).reason is StopReason.COMPLETED
    assert "before_validate" not in spy.events
    assert "valid/loss" not in learn.recorder.row
    for run in (learn.validate, learn.get_preds):
        with pytest.raises(ValueError, match="The Learner has no validation set: pass a loader"):
            run()
    assert learn.validate(regression_lists().valid).keys() == {"valid/loss"}


# --- counters


def test_counters_at_every_training_batch() -> None:
    seen: list[tuple[int, int, int | None, int, float]] = []

    class Counting(Callback):
        def before_batch(self, learn: Learner) -> None:
            if learn.training:
                seen.append(
                    (learn.epoch, learn.iter, learn.n_iter, learn.train_iter, learn.pct_train)
                )

    toy_learner(regression_lists(16, 8, bs=8), cbs=[Counting()]).fit(2)
    assert seen == [(0, 0, 2, 0, 0.0), (0, 1, 2, 1, 0.25), (1, 0, 2, 2, 0.5), (1, 1, 2, 3, 0.75)]


def test_train_iter_continues_in_a_second_fit() -> None:
    learn = toy_learner()
    assert learn.fit(2).train_iter == 10
    assert learn.fit(1).train_iter == 15
    assert learn.recorder.lrs["0"] == [0.05] * 5


def test_a_fit_of_no_epochs_trains_nothing() -> None:
    learn = toy_learner()
    result = learn.fit(0)
    assert (result.reason, result.n_epoch, result.metrics) == (StopReason.COMPLETED, 0, {})


def test_start_epoch_skips_the_first_epochs() -> None:
    spy = SpyCallback()
    learn = toy_learner(cbs=[spy])
    assert learn.fit(3, start_epoch=1).n_epoch == 2
    assert [row["epoch"] for row in learn.recorder.rows] == [1.0, 2.0]
    assert {entry[1] for entry in spy.entries} == {1, 2}


@pytest.mark.parametrize(("n_epoch", "start_epoch"), [(2, 3), (2, -1)])
def test_start_epoch_must_be_within_the_fit(n_epoch: int, start_epoch: int) -> None:
    with pytest.raises(
        ValueError, match=f"start_epoch={start_epoch} must be from 0 to n_epoch={n_epoch}"
    ):
        toy_learner().fit(n_epoch, start_epoch=start_epoch)


@pytest.mark.parametrize("n_epoch", [-1, 1.5, None])
def test_n_epoch_must_be_a_whole_number_of_at_least_0(n_epoch: Any) -> None:
    with pytest.raises(ValueError, match=f"^n_epoch={n_epoch} must be an integer of at least 0"):
        toy_learner().fit(n_epoch)


@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf])
def test_a_learning_rate_is_finite_and_not_negative(lr: float) -> None:
    with pytest.raises(
        ValueError, match=f"lr={lr} must be finite and at least 0 but contains {lr}"
    ):
        toy_learner(lr=lr).fit(1)
    learn = toy_learner()
    learn.fit(1)
    with pytest.raises(
        ValueError, match=f"lr={lr} must be finite and at least 0 but contains {lr}"
    ):
        learn.fit(1, lr=lr)


# --- the optimizer over several fits


def adam_steps(learn: Learner) -> int:
    assert isinstance(learn.opt, torch.optim.Adam)
    return int(next(iter(learn.opt.state.values()))["step"])


@pytest.mark.parametrize(("reset_opt", "steps"), [(False, 10), (True, 5)])
def test_reset_opt_makes_a_new_optimizer(reset_opt: bool, steps: int) -> None:
    learn = toy_learner(opt_func=torch.optim.Adam)
    learn.fit(1)
    first = learn.opt
    learn.fit(1, reset_opt=reset_opt)
    assert (learn.opt is not first) is reset_opt
    assert adam_steps(learn) == steps


def test_a_second_fit_continues_from_the_first() -> None:
    once, twice = digits_learner(), digits_learner()
    once.fit(2)
    twice.fit(1)
    twice.fit(1)
    for name, value in once.model.state_dict().items():
        assert torch.equal(twice.model.state_dict()[name], value)


# --- callbacks of the learner


def test_a_learner_has_the_default_callbacks_in_order() -> None:
    names = [type(cb).__name__ for cb in toy_learner().cbs]
    assert names == ["DeviceCallback", "CastToTensor", "TrainEvalCallback", "Recorder"]


def test_remove_cb_accepts_an_object_or_a_class() -> None:
    first, second, other = SpyCallback(), SpyCallback(), Callback()
    learn = toy_learner(cbs=[first, second, other])
    learn.remove_cb(first)
    assert first not in learn.cbs
    assert second in learn.cbs
    learn.add_cb(first).remove_cbs([SpyCallback, other])
    assert [type(cb).__name__ for cb in learn.cbs] == [
        type(cb).__name__ for cb in toy_learner().cbs
    ]


def test_removing_a_class_removes_its_subclasses() -> None:
    learn = toy_learner(cbs=[RaiseAt(Event.BEFORE_FIT, ValueError())])
    learn.remove_cb(SpyCallback)
    assert learn.fit(1).reason is StopReason.COMPLETED


def test_added_cbs_are_present_only_within_the_block() -> None:
    learn, spy = toy_learner(), SpyCallback()
    before = list(learn.cbs)
    with learn.added_cbs(spy) as same:
        assert same is learn
        assert spy in learn.cbs
        learn.fit(1)
    learn.fit(1)
    assert learn.cbs == before
    assert spy.events.count("before_fit") == 1


def test_added_cbs_are_removed_after_an_error() -> None:
    learn = toy_learner()
    before = list(learn.cbs)
    with (
        learn.added_cbs(RaiseAt(Event.BEFORE_FIT, ValueError("lost"))),
        pytest.raises(ValueError, match="lost"),
    ):
        learn.fit(1)
    assert learn.cbs == before


def test_the_learner_copies_the_list_of_callbacks() -> None:
    given: list[Callback] = [SpyCallback()]
    learn = toy_learner(cbs=given)
    learn.add_cb(SpyCallback())
    assert len(given) == 1
    given.append(SpyCallback())
    assert sum(isinstance(cb, SpyCallback) for cb in learn.cbs) == 2


class Meddling(Callback):
    def __init__(self, meddle: Callable[[Learner], object]) -> None:
        self.meddle = meddle

    def before_batch(self, learn: Learner) -> None:
        self.meddle(learn)


@pytest.mark.parametrize(
    ("meddle", "message"),
    [
        (
            lambda learn: learn.add_cb(SpyCallback()),
            r"SpyCallback cannot be added during a fit: pass it to fit\(cbs=...\)",
        ),
        (lambda learn: learn.remove_cb(Recorder), "Callbacks cannot be removed during a fit"),
        (lambda learn: learn.fit(1), "The loop is already running"),
        (lambda learn: learn.validate(), "The loop is already running"),
        (lambda learn: learn.get_preds(), "cannot be added during a fit"),
    ],
    ids=["add", "remove", "fit", "validate", "get_preds"],
)
def test_callbacks_cannot_change_or_enter_the_running_loop(
    meddle: Callable[[Learner], object], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        toy_learner(cbs=[Meddling(meddle)]).fit(1)


def test_a_callback_changes_the_batch_the_predictions_and_the_loss() -> None:
    class Changing(Callback):
        def before_batch(self, learn: Learner) -> None:
            learn.xb = (torch.zeros_like(learn.xb[0]),)

        def after_pred(self, learn: Learner) -> None:
            learn.pred = learn.pred * 0 + 3

        def after_loss(self, learn: Learner) -> None:
            learn.loss = learn.loss * 0 + 7

    learn = toy_learner(cbs=[Changing()])
    learn.fit(1)
    assert learn.recorder.losses.tolist() == [7.0] * 5
    assert learn.get_preds()[0].unique().tolist() == [3.0]


# --- validate and get_preds


def test_validate_returns_the_metrics_of_a_loader() -> None:
    learn = digits_learner()
    learn.fit(1)
    assert learn.validate() == {
        name: learn.recorder.rows[-1][name] for name in ("valid/loss", "valid/accuracy")
    }
    x, y = next(iter(small_digits_lists().train))
    with torch.no_grad():
        expected = nn.functional.cross_entropy(learn.model(x), y).item()
    assert learn.validate([(x, y)])["valid/loss"] == pytest.approx(expected, rel=1e-6)


def test_validate_before_any_fit() -> None:
    learn = toy_learner()
    assert 0 < learn.validate()["valid/loss"] < 100
    assert (learn.opt, learn.train_iter) == (None, 0)


def counters(learn: Learner) -> dict[str, Any]:
    names = ("n_epoch", "epoch", "train_iter", "pct_train", "start_epoch")
    return {name: getattr(learn, name) for name in names}


@pytest.mark.parametrize(
    "run",
    [lambda learn: learn.validate(), lambda learn: learn.get_preds()],
    ids=["validate", "get_preds"],
)
def test_validate_and_get_preds_do_not_change_record_counters_or_weights(
    run: Callable[[Learner], object],
) -> None:
    learn = digits_learner()
    learn.model[1].eval()  # type: ignore[index]
    learn.fit(2)
    rows, losses, lrs = (
        [dict(row) for row in learn.recorder.rows],
        learn.recorder.losses,
        learn.recorder.lrs,
    )
    before, weight = counters(learn), learn.model[0].weight.clone()  # type: ignore[index]
    modes = [module.training for module in learn.model.modules()]
    cbs = list(learn.cbs)
    run(learn)
    assert counters(learn) == before
    assert learn.recorder.rows == rows
    assert torch.equal(learn.recorder.losses, losses)
    assert learn.recorder.lrs == lrs
    assert torch.equal(learn.model[0].weight, weight)  # type: ignore[index]
    assert [module.training for module in learn.model.modules()] == modes
    assert learn.cbs == cbs


def test_callbacks_passed_to_validate_run_only_there() -> None:
    spy, learn = SpyCallback(), toy_learner()
    learn.validate(cbs=[spy])
    learn.validate()
    assert spy.events.count("before_validate") == 1
    assert spy.events[0] == "before_fit"
    assert spy.events[-1] == "cleanup_fit"
    assert "before_epoch" not in spy.events
    assert "after_loss" in spy.events


def test_get_preds_uses_the_model_in_eval_mode() -> None:
    lists = small_digits_lists()
    learn = Learner(with_dropout(), lists, nn.functional.cross_entropy, device="cpu")
    learn.fit(1)
    y = torch.cat([batch[1] for batch in lists.valid or []])
    preds, labels = learn.get_preds()
    learn.model.eval()
    with torch.no_grad():
        expected = torch.cat([learn.model(batch[0]) for batch in lists.valid or []])
    assert torch.equal(preds, expected)
    assert labels is not None
    assert torch.equal(labels, y)
    assert not preds.requires_grad


def test_get_preds_needs_no_loss() -> None:
    def no_loss(pred: Tensor, target: Tensor) -> Tensor:
        raise AssertionError("called")

    spy = SpyCallback()
    assert toy_learner(loss_func=no_loss).get_preds(cbs=[spy])[0].shape == (20, 1)
    assert "after_loss" not in spy.events


# --- save and load


@pytest.mark.parametrize("with_opt", [True, False])
def test_a_loaded_learner_continues_like_the_saved_one(tmp_path: Path, with_opt: bool) -> None:
    learn, other = digits_learner(), digits_learner()
    learn.fit(1)
    path = learn.save(tmp_path / "sub" / "model.pt", with_opt=with_opt)
    other.load(path, with_opt=with_opt)
    learn.fit(1, reset_opt=not with_opt)
    other.fit(1)
    assert torch.equal(learn.recorder.losses, other.recorder.losses)


def test_saving_writes_only_its_file(tmp_path: Path) -> None:
    toy_learner().save(tmp_path / "model.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_loading_without_the_optimizer_keeps_the_current_one(tmp_path: Path) -> None:
    learn, other = digits_learner(), digits_learner()
    learn.fit(2)
    other.fit(1)
    other.load(learn.save(tmp_path / "model.pt"), with_opt=False)
    assert adam_steps(other) == 6
    assert torch.equal(other.model[0].weight, learn.model[0].weight)  # type: ignore[index]


def test_load_is_strict_by_default(tmp_path: Path) -> None:
    path = toy_learner().save(tmp_path / "model.pt")
    other = toy_learner(model=nn.Linear(1, 1, bias=False))
    with pytest.raises(RuntimeError, match="bias"):
        other.load(path)
    assert other.load(path, strict=False) is other


def test_loading_a_missing_file_or_one_that_is_not_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"The checkpoint .*none.pt does not exist"):
        toy_learner().load(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text.pt cannot be loaded"):
        toy_learner().load(tmp_path / "text.pt")


# --- overriding the steps of a batch


class Overriding(Learner):
    """Overrides each step of a batch and counts the calls."""

    calls: list[str]

    def predict(self) -> Any:
        self.calls.append("predict")
        return 2 * self.model(*self.xb)

    def get_loss(self) -> Tensor:
        self.calls.append("get_loss")
        return nn.functional.l1_loss(self.pred, *self.yb)

    def backward(self) -> None:
        self.calls.append("backward")
        (3 * self.loss).backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        self.calls.append("step")
        super().step()

    def zero_grad(self) -> None:
        self.calls.append("zero_grad")
        super().zero_grad()


def test_a_subclass_may_override_each_step() -> None:
    lists = Lists(
        [(torch.ones(2, 1), torch.full((2, 1), 5.0))], [(torch.ones(1, 1), torch.ones(1, 1))]
    )
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.5)
    learn = Overriding(model, lists, nn.functional.mse_loss, lr=0.1, device="cpu")
    learn.calls = []
    learn.fit(1)
    assert learn.calls == [
        "predict",
        "get_loss",
        "backward",
        "step",
        "zero_grad",
        "predict",
        "get_loss",
    ]
    assert learn.recorder.losses.tolist() == [4.0]
    assert model.weight.item() == pytest.approx(0.5 + 0.1 * 3 * 2)


def test_an_overridden_loss_may_cancel() -> None:
    class Stopping(Learner):
        def get_loss(self) -> Tensor:
            raise CancelFitException("no more", reason=StopReason.BUDGET)

    learn = Stopping(nn.Linear(1, 1), regression_lists(), nn.functional.mse_loss, device="cpu")
    assert learn.fit(1).reason is StopReason.BUDGET


# --- errors that name the cause


def test_a_loss_that_does_not_fit_the_predictions_shows_their_shapes() -> None:
    learn = Learner(
        nn.Linear(64, 7),
        Lists(batches(torch.rand(4, 64), torch.full((4,), 9), 4), None),
        loss_9,
        device="cpu",
    )
    with pytest.raises(IndexError) as info:
        learn.fit(1)
    assert (
        "nntrain: the loss was called with pred float32 (4, 7) and target int64 (4,)"
        in info.value.__notes__
    )


def loss_9(pred: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(pred, target)


def test_a_learner_has_no_magic_attributes() -> None:
    with pytest.raises(AttributeError, match="'Learner' object has no attribute 'recoder'"):
        _ = toy_learner().recoder  # type: ignore[attr-defined]


def test_show_training_loop_names_a_users_callback(capsys: pytest.CaptureFixture[str]) -> None:
    text = toy_learner(cbs=[Meddling(print)]).show_training_loop()
    assert "before_batch: DeviceCallback, CastToTensor, Meddling\n" in text
    assert capsys.readouterr().out == text + "\n"


def test_a_loss_of_nan_is_recorded_unchanged() -> None:
    learn = toy_learner(lr=1e38)
    learn.fit(1)
    assert learn.recorder.losses.isnan().any()
    assert math.isnan(learn.recorder.last("valid/loss"))
