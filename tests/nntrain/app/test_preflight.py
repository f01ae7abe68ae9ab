import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import sklearn.metrics as skm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from nntrain import Callback, CancelBatchException, Event, Learner, Purpose
from nntrain.app.preflight import check_first_batch, check_monitors
from nntrain.callbacks import EarlyStopping
from nntrain.config.errors import ConfigError
from nntrain.core.optimizer import split_by_children
from nntrain.metrics import accuracy, mae, skm_to_fastai
from nntrain.recorder import Recorder
from nntrain.testing import RaiseAt, SpyCallback
from tests.common.toys import Lists, digits_mlp, regression_lists, toy_learner
from tests.common.twins import assert_same_training, shuffled_learner

X, Y = torch.ones(8, 1), torch.zeros(8, 1)
GOOD = [(X, Y)]


def dataset(n: int) -> TensorDataset:
    return TensorDataset(torch.ones(n, 1), torch.zeros(n, 1))


class Stream(IterableDataset[Any]):
    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.ones(1), torch.zeros(1))] * self.n)


def with_values(shape: tuple[int, ...], *values: float) -> Tensor:
    """Returns a tensor of ones whose first elements are the given values."""
    tensor = torch.ones(shape)
    tensor.view(-1)[: len(values)] = torch.tensor(values)
    return tensor


def training_on(*batches: Any, **kwargs: Any) -> Callable[[], Learner]:
    return lambda: toy_learner(Lists(list(batches), None), **kwargs)


def loaded_by(train: Any, valid: Any = None) -> Callable[[], Learner]:
    return lambda: toy_learner(Lists(train, valid))


def mean_of_nothing(pred: Tensor, target: Tensor) -> Tensor:
    return target.mean()


def a_float(pred: Tensor, target: Tensor) -> Any:
    return pred.mean().item()


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), self.layer(x)


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.layer(pixel_values)  # type: ignore[no-any-return]


class Boom(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        raise RuntimeError("boom")


BOOM_LINE = Boom.forward.__code__.co_firstlineno + 1
NAN, INF = math.nan, math.inf
MISTAKES: dict[str, tuple[Callable[[], Learner], str]] = {
    "empty training list": (
        loaded_by([]),
        "The training set is empty: check the path, split or filter that creates the dataset.",
    ),
    "empty training dataset": (
        loaded_by(DataLoader(dataset(0), 4)),
        "The training set is empty: check the path",
    ),
    "empty validation dataset": (
        loaded_by(GOOD, DataLoader(dataset(0), 4)),
        "The validation set is empty: check the path",
    ),
    "empty stream": (
        loaded_by(DataLoader(Stream(0), 4)),
        "The training loader yielded no batches: the dataset is empty, or drop_last",
    ),
    "empty validation stream": (
        loaded_by(GOOD, DataLoader(Stream(0), 4)),
        "The validation loader yielded no batches: the dataset is empty",
    ),
    "batch larger than the training set": (
        loaded_by(DataLoader(dataset(10), 64, drop_last=True)),
        "The training set has only 10 items, but batch_size=64 and drop_last drops incomplete "
        "batches: set batch_size to at most 10, or drop_last=False.",
    ),
    "batch larger than the validation set": (
        loaded_by(GOOD, DataLoader(dataset(3), 4, drop_last=True)),
        "The validation set has only 3 items, but batch_size=4 and drop_last drops incomplete",
    ),
    "NaN in the input": (
        training_on((with_values((8, 1), NAN), Y)),
        "The first training batch contains NaN or infinity in 1 of the 8 values of input 0: "
        "remove or replace these values in the dataset.",
    ),
    "infinity in the second input": (
        training_on((X, with_values((8, 3), INF, -INF, NAN), Y)),
        "The first training batch contains NaN or infinity in 3 of the 24 values of input 1",
    ),
    "NaN in a named input": (
        training_on({"pixel_values": with_values((8, 1), NAN), "labels": Y}),
        "NaN or infinity in 1 of the 8 values of input 0 'pixel_values'",
    ),
    "NaN in the label": (
        training_on((X, with_values((8, 1), NAN, NAN))),
        "in 2 of the 8 values of label 0",
    ),
    "NaN in the validation set": (
        lambda: toy_learner(Lists(GOOD, [(with_values((4, 1), INF), torch.zeros(4, 1))])),
        "The first validation batch contains NaN or infinity in 1 of the 4 values of input 0",
    ),
    "labels of another shape": (
        training_on((X, torch.zeros(5, dtype=torch.long)), loss_func=nn.CrossEntropyLoss()),
        "The loss CrossEntropyLoss rejected the output of the model Linear: pred is float32 "
        "(8, 1), target is int64 (5,): "
        "Expected input batch_size (8) to match target batch_size (5).",
    ),
    "labels of another type": (
        training_on(
            (X, torch.zeros(8, dtype=torch.int32)),
            loss_func=partial(nn.functional.cross_entropy, reduction="mean"),
        ),
        "The loss cross_entropy rejected the output of the model Linear: pred is float32 (8, "
        "1), target is int32 (8,): ",
    ),
    "labels out of range": (
        training_on((X, torch.full((8,), 7)), loss_func=nn.CrossEntropyLoss()),
        "pred is float32 (8, 1), target is int64 (8,): Target 7 is out of bounds.",
    ),
    "a model that returns two tensors": (
        training_on(*GOOD, model=Pair(), loss_func=nn.MSELoss()),
        "The loss MSELoss rejected the output of the model Pair: pred is float32 (8, 1), "
        "float32 (8, 1), target is",
    ),
    "a loss that is a float": (
        training_on(*GOOD, loss_func=a_float),
        "The loss a_float rejected the output of the model Linear: pred is float32 (8, 1), "
        "target is float32 (8, 1): "
        "The loss must be a tensor or a mapping of names to tensors but is float.",
    ),
    "a validation label that does not fit": (
        lambda: toy_learner(Lists([(X, torch.zeros(8).long())], [(X, Y)]), loss_func=nn.NLLLoss()),
        "The loss NLLLoss rejected the output of the model Linear: pred is float32 (8, 1), "
        "target is float32 (8, 1): ",
    ),
    "input of another width": (
        training_on((torch.ones(8, 3), Y)),
        "The model Linear rejected its input float32 (8, 3): mat1 and mat2 shapes cannot be "
        "multiplied (8x3 and 1x1)",
    ),
    "input of another type": (
        training_on((torch.ones(8, 1, dtype=torch.long), Y)),
        "The model Linear rejected its input int64 (8, 1): mat1 and mat2 must have the same dtype",
    ),
    "inputs too many": (
        training_on((X, X, Y)),
        "The model Linear rejected its input float32 (8, 1), float32 (8, 1): ",
    ),
    "inputs under other names": (
        training_on({"image": X, "labels": Y}, model=Image()),
        "The model Image rejected its input float32 (8, 1): Image.forward() got an unexpected "
        "keyword argument 'image'",
    ),
    "a loss that is not one number": (
        training_on(*GOOD, loss_func=nn.MSELoss(reduction="none")),
        "The loss MSELoss must return a scalar but returned float32 (8, 1): "
        "compute the mean, for example with reduction='mean'.",
    ),
    "a loss without gradient": (
        training_on(*GOOD, loss_func=mean_of_nothing),
        "The loss mean_of_nothing has no gradient because it does not depend on trainable "
        "parameters: compute it from the model's predictions without detach(), item(), argmax() "
        "or no_grad().",
    ),
    "a metric of classes for a regression": (
        training_on(*GOOD, metrics=[accuracy]),
        "metrics.accuracy rejected the output of the model Linear: pred is float32 (8, 1), "
        "target is float32 (8, 1): "
        "Predictions of shape (8, 1) must have at least two classes in axis 1",
    ),
    "a metric of the validation set": (
        lambda: toy_learner(metrics=[skm_to_fastai(skm.r2_score)]),
        "metrics.r2_score rejected the output of the model Linear: pred is float32 (8, 1), "
        "target is float32 (8, 1): ",
    ),
    "a metric that broadcasts": (
        training_on(
            (X, torch.zeros(8)),
            loss_func=lambda pred, y: pred.mean(),
            metrics=[nn.functional.mse_loss],
        ),
        "metrics.mse_loss rejected the output of the model Linear: pred is float32 (8, 1), "
        "target is float32 (8,): ",
    ),
    "a model that raises": (
        training_on(*GOOD, model=Boom(1, 1)),
        f"The model Boom rejected its input float32 (8, 1): boom (test_preflight.py, line "
        f"{BOOM_LINE})",
    ),
}


@pytest.mark.parametrize(("make", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_reported_in_one_sentence_and_leaves_no_trace(
    make: Callable[[], Learner], message: str
) -> None:
    learn = make()
    before = dict(vars(learn))
    weights = {name: value.clone() for name, value in learn.model.state_dict().items()}
    with pytest.raises(ConfigError) as caught:
        check_first_batch(learn)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert vars(learn) == before
    assert all(
        torch.equal(value, weights[name]) for name, value in learn.model.state_dict().items()
    )


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("labels of another shape", ValueError),
        ("labels out of range", IndexError),
        ("input of another width", RuntimeError),
        ("inputs too many", TypeError),
        ("empty stream", ValueError),
    ],
)
def test_the_original_exception_is_the_cause(name: str, cause: type[Exception]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_first_batch(MISTAKES[name][0]())
    assert type(caught.value.__cause__) in (cause, *cause.__subclasses__())


GOOD_LEARNERS: dict[str, Callable[[], Learner]] = {
    "lists": toy_learner,
    "no validation": training_on(*GOOD),
    "streams without length": loaded_by(DataLoader(Stream(9), 4), DataLoader(Stream(9), 4)),
    "autoencoder": training_on(X),
    "integer input": training_on(
        (torch.ones(8, 2).long(), Y.view(8, 1, 1).expand(8, 2, 1)), model=nn.Embedding(3, 1)
    ),
    "sparse input": training_on((torch.eye(8).to_sparse(), Y), model=nn.Linear(8, 1)),
    "mapping": training_on({"pixel_values": X, "labels": Y}, model=Image()),
    "named losses": training_on(
        *GOOD, loss_func=lambda pred, y: {"l1": (pred - y).abs().mean(), "l2": pred.square().mean()}
    ),
    "incomplete batch kept": loaded_by(DataLoader(dataset(3), 64)),
    "lazy": training_on(*GOOD, model=nn.LazyLinear(1)),
    "groups": training_on(
        *GOOD,
        model=nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1)),
        splitter=split_by_children,
        lr=[1, 2],
    ),
    "stateful": shuffled_learner,
}


@pytest.mark.parametrize("make", GOOD_LEARNERS.values(), ids=GOOD_LEARNERS)
def test_a_good_learner_passes_and_trains(make: Callable[[], Learner]) -> None:
    learn = make()
    check_first_batch(learn)
    assert learn.opt is None
    assert learn.fit(1).n_epoch == 1


@pytest.mark.parametrize("fitted", [0, 1], ids=["before the first fit", "between two fits"])
@pytest.mark.parametrize("own_generator", [False, True], ids=["global generator", "own generator"])
def test_training_is_the_same_with_and_without_the_check(own_generator: bool, fitted: int) -> None:
    assert_same_training(
        lambda: shuffled_learner(own_generator, torch.optim.Adam),
        check_first_batch,
        n_epoch_before=fitted,
    )


@pytest.mark.slow
def test_workers_started_by_the_check_change_nothing() -> None:
    assert_same_training(
        lambda: shuffled_learner(num_workers=1), check_first_batch, n_epoch_before=0
    )


class Counted:
    """A loader that counts the batches it yields."""

    def __init__(self, batches: Any) -> None:
        self.batches, self.given = batches, given_list()

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            self.given.append(1)
            yield batch


def given_list() -> list[int]:
    return []


def test_the_check_takes_one_batch_of_each_loader_and_runs_the_whole_loop() -> None:
    seen: list[tuple[Event, Purpose, bool]] = []

    class Seen(SpyCallback):
        def on(self, event: Event, learn: Learner) -> None:
            seen.append((event, learn.purpose, learn.training))

    lists = regression_lists()
    train, valid = Counted(lists.train), Counted(lists.valid)
    check_first_batch(toy_learner(Lists(train, valid), cbs=[Seen()]))
    assert (len(train.given), len(valid.given)) == (1, 1)
    assert {purpose for _, purpose, _ in seen} == {Purpose.CHECK}
    batch = ["before_batch", "after_pred", "after_loss"]
    backward = ["before_backward", "after_backward", "before_step", "after_step"]
    assert [event for event, _, _ in seen] == [
        *[
            "before_fit",
            "before_epoch",
            "before_train",
            *batch,
            *backward,
            "after_batch",
            "after_train",
        ],
        *["before_validate", *batch, "after_batch", "after_validate"],
        *["after_epoch", "after_fit", "cleanup_fit"],
    ]


def test_a_batch_that_a_callback_cancels_is_not_an_error() -> None:
    class Skip(Callback):
        def before_batch(self, learn: Learner) -> None:
            raise CancelBatchException

    check_first_batch(toy_learner(cbs=[Skip()]))


def test_values_that_a_callback_repairs_are_not_an_error() -> None:
    class Repair(Callback):
        def before_batch(self, learn: Learner) -> None:
            learn.xb = (learn.xb[0].nan_to_num(),)

    check_first_batch(training_on((with_values((8, 1), NAN), Y), cbs=[Repair()])())


@pytest.mark.parametrize(
    "event",
    [Event.BEFORE_BATCH, Event.AFTER_PRED, Event.AFTER_LOSS, Event.AFTER_STEP, Event.BEFORE_FIT],
)
def test_errors_of_callbacks_are_raised_unchanged(event: Event) -> None:
    err = RuntimeError("mine")
    with pytest.raises(RuntimeError, match="mine") as caught:
        check_first_batch(toy_learner(cbs=[RaiseAt(event, err)]))
    assert caught.value is err


@pytest.mark.parametrize(
    "err",
    [torch.OutOfMemoryError("full"), OSError("disk"), KeyboardInterrupt()],
    ids=lambda e: type(e).__name__,
)
def test_errors_of_the_machine_are_raised_unchanged(err: BaseException) -> None:
    class Breaks(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            raise err

    with pytest.raises(type(err)) as caught:
        check_first_batch(toy_learner(model=Breaks(1, 1)))
    assert caught.value is err


def test_errors_of_the_dataset_are_raised_unchanged() -> None:
    class Corrupt(Stream):
        def __iter__(self) -> Iterator[Any]:
            raise ValueError("corrupt file")

    with pytest.raises(ValueError, match="corrupt file") as caught:
        check_first_batch(loaded_by(DataLoader(Corrupt(3), 1))())
    assert not isinstance(caught.value, ConfigError)


def test_a_failure_without_a_message_is_named_by_its_type() -> None:
    def bare(pred: Tensor, target: Tensor) -> Tensor:
        raise ValueError

    with pytest.raises(ConfigError, match=r": ValueError\n"):
        check_first_batch(toy_learner(loss_func=bare))


def test_a_recorder_is_not_needed() -> None:
    learn = toy_learner(model=nn.Linear(1, 1)).remove_cb(Recorder)
    check_first_batch(learn)
    assert learn.fit(1).train_iter == 5


def test_only_the_first_line_of_a_long_message_is_shown() -> None:
    def verbose(pred: Tensor, target: Tensor) -> Tensor:
        raise RuntimeError("first line\nsecond line")

    with pytest.raises(ConfigError, match=r"first line\n"):
        check_first_batch(toy_learner(digits_like(), digits_mlp(), loss_func=verbose))


def digits_like() -> Lists:
    return Lists([(torch.zeros(4, 64), torch.zeros(4).long())], None)


def test_metrics_that_are_undefined_on_one_batch_are_not_read() -> None:
    auc = skm_to_fastai(skm.roc_auc_score, is_class=False)
    learn = toy_learner(Lists([(X, Y)], [(X, Y)]), metrics=[auc, mae])
    assert check_first_batch(learn) == [
        "train/loss",
        "train/mae",
        "valid/loss",
        "valid/roc_auc_score",
        "valid/mae",
    ]
    assert auc.value is None


def test_a_metric_keeps_its_state() -> None:
    learn = toy_learner(metrics=[mae])
    metric = learn.metrics[0]
    learn.pred, learn.yb = torch.ones(4, 1), (torch.zeros(4, 1),)
    metric.accumulate(learn)
    check_first_batch(learn)
    assert metric.value == 1


@pytest.mark.parametrize(
    ("monitor", "hint"),
    [
        ("valid/acuracy", r"did you mean 'valid/accuracy'\?"),
        (
            "zzz",
            "expected one of time/batch_ms, time/data_wait_ms, time/epoch_s, train/loss, "
            "valid/accuracy.",
        ),
    ],
)
def test_a_monitor_that_is_not_recorded_is_refused(monitor: str, hint: str) -> None:
    learn = toy_learner(cbs=[EarlyStopping(monitor=monitor)])
    with pytest.raises(
        ConfigError,
        match=rf"^EarlyStopping\(monitor='{monitor}'\) will not be recorded: {hint}$",
    ):
        check_monitors(learn, ["train/loss", "valid/accuracy"])


@pytest.mark.parametrize(
    "monitor", ["valid/loss", "time/epoch_s", "time/batch_ms", "time/data_wait_ms"]
)
def test_a_monitor_that_is_recorded_passes(monitor: str) -> None:
    learn = toy_learner(cbs=[EarlyStopping(monitor=monitor)])
    check_monitors(learn, check_first_batch(learn))
    learn.fit(1)
    assert monitor in learn.recorder.row
