import itertools
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nntrain import Callback, CancelBatchException, Event, Learner
from nntrain.core.optimizer import split_by_children
from nntrain.lr_finder import LRFindResult, SuggestFunc, lr_find, minimum, slide, steep, valley
from nntrain.testing import SpyCallback
from tests.common.toys import Lists, digits_lists, digits_mlp, regression_lists, toy_learner
from tests.common.twins import assert_same_training, shuffled_learner

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "lr_find.json").read_text())
RULES: tuple[SuggestFunc, ...] = (valley, slide, minimum, steep)


def scripted_learner(raw: list[float]) -> Learner:
    values: Iterator[float] = iter(raw)

    def loss_func(pred: Tensor, target: Tensor) -> Tensor:
        return 0 * pred.sum() + next(values)

    return toy_learner(loss_func=loss_func)


def assert_equals_fastai(result: LRFindResult, case: dict[str, Any], rel: float) -> None:
    assert len(result.lrs) == len(case["lrs"])
    assert result.lrs == pytest.approx(case["lrs"], rel=1e-6)
    assert result.losses == pytest.approx(case["losses"], rel=rel)
    assert result.suggestions == pytest.approx(case["suggestions"], rel=1e-5)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("case", REFERENCE["curves"].values(), ids=REFERENCE["curves"])
def test_the_suggestions_of_the_rules_equal_fastais(case: dict[str, Any], rule: Any) -> None:
    assert rule(case["lrs"], case["losses"]) == pytest.approx(
        case["suggestions"][rule.__name__], rel=1e-5
    )


@pytest.mark.parametrize(
    "case", REFERENCE["short valleys"].values(), ids=REFERENCE["short valleys"]
)
def test_the_valley_of_a_few_losses_equals_fastais(case: dict[str, Any]) -> None:
    assert valley(case["lrs"], case["losses"]) == case["valley"]


@pytest.mark.parametrize(("rule", "n"), [(valley, 1), (slide, 16), (minimum, 1), (steep, 2)])
def test_a_rule_says_how_many_losses_it_needs(rule: SuggestFunc, n: int) -> None:
    lrs, losses = [10.0**i for i in range(n)], [1.0] * n
    assert rule(lrs, losses) > 0
    with pytest.raises(
        ValueError,
        match=rf"needs at least {n} losses but got {n - 1}: raise num_it or lower end_lr",
    ):
        rule(lrs[1:], losses[1:])


@pytest.mark.parametrize("case", REFERENCE["scripts"].values(), ids=REFERENCE["scripts"])
def test_smoothing_stopping_and_cutting_equal_fastais(case: dict[str, Any]) -> None:
    result = lr_find(scripted_learner(case["raw"]), suggest_funcs=RULES, **case["kwargs"])
    assert_equals_fastai(result, case, rel=1e-5)


@pytest.mark.parametrize("case", REFERENCE["runs"].values(), ids=REFERENCE["runs"])
def test_the_curves_of_runs_on_digits_equal_fastais(case: dict[str, Any]) -> None:
    def opt_func(params: Any, *, lr: float) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = getattr(torch.optim, case["opt"])(
            params, lr=lr, **case["opt_kwargs"]
        )
        return optimizer

    learn = toy_learner(
        digits_lists(), digits_mlp(), loss_func=nn.functional.cross_entropy, opt_func=opt_func
    )
    assert_equals_fastai(learn.lr_find(suggest_funcs=RULES, **case["kwargs"]), case, rel=1e-3)


def test_a_negative_loss_does_not_count_as_divergence() -> None:
    raw = [-1 - 0.01 * i for i in range(60)] + [5.0] * 40
    result = lr_find(scripted_learner(raw))
    best = min(result.losses)
    assert best < -1
    # the smoothed loss rises to 1.5, which is less than 2 * |best|
    assert len(result.losses) == 100
    raw[60:] = [50.0] * 40
    assert 60 < len(lr_find(scripted_learner(raw)).losses) < 70


def test_all_groups_have_the_same_rate_during_the_test_and_their_own_afterward() -> None:
    seen: list[list[float]] = []

    class Rates(Callback):
        order = 80

        def before_batch(self, learn: Learner) -> None:
            assert learn.opt is not None
            seen.append([group["lr"] for group in learn.opt.param_groups])  # type: ignore[attr-defined]

    learn = toy_learner(
        digits_lists(),
        digits_mlp(),
        loss_func=nn.functional.cross_entropy,
        splitter=split_by_children,
        lr=slice(1e-3, 1e-1),
    )
    learn.fit(1)
    before = [group["lr"] for group in learn.opt.param_groups]  # type: ignore[union-attr]
    learn.add_cb(Rates())
    result = learn.lr_find(num_it=20, start_lr=1e-4, end_lr=1e-2)
    assert before == pytest.approx([1e-3, 1e-1])
    assert [group["lr"] for group in learn.opt.param_groups] == before  # type: ignore[union-attr]
    assert seen == [[lr, lr] for lr in result.lrs]
    assert result.lrs[0] == 1e-4
    assert result.lrs[10] == pytest.approx(1e-3)


def test_the_loader_is_cycled_and_validation_is_skipped() -> None:
    seen: list[Event] = []  # not an attribute of the spy, which lr_find restores

    class Seen(SpyCallback):
        order = 80

        def on(self, event: Event, learn: Learner) -> None:
            seen.append(event)

    toy_learner(regression_lists(n_train=40, bs=8), cbs=[Seen()]).lr_find(num_it=23, stop_div=False)
    assert seen.count(Event.BEFORE_EPOCH) == 5
    assert seen.count(Event.AFTER_STEP) == 22  # the 23rd loss ends the test
    assert seen.count(Event.AFTER_CANCEL_VALIDATE) == 4
    assert seen.count(Event.AFTER_CANCEL_FIT) == 1


def test_it_uses_the_optimizer_of_the_last_fit() -> None:
    seen: list[Any] = []

    class SeeOptimizer(Callback):
        def before_fit(self, learn: Learner) -> None:
            seen.append(learn.opt)

    learn = toy_learner(opt_func=torch.optim.Adam)
    learn.fit(1)
    learn.add_cb(SeeOptimizer()).lr_find()
    assert seen == [learn.opt]


def test_a_loader_may_have_no_length() -> None:
    class Endless:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return itertools.cycle(regression_lists().train)

    assert len(toy_learner(Lists(Endless(), None)).lr_find(num_it=30, stop_div=False).losses) == 30


def test_skipped_batches_are_not_counted() -> None:
    class SkipEven(Callback):
        def before_batch(self, learn: Learner) -> None:
            if learn.iter % 2 == 0:
                raise CancelBatchException

    result = toy_learner(cbs=[SkipEven()]).lr_find(num_it=30, stop_div=False)
    assert len(result.losses) == 30
    assert result.lrs[15] == pytest.approx(1e-3)  # the geometric mean of 1e-7 and 10


def test_suggestions_are_named_after_their_rule_also_a_users_own() -> None:
    def last(lrs: Any, losses: Any) -> float:
        return float(lrs[-1])

    result = toy_learner().lr_find(
        num_it=40, start_lr=1e-6, end_lr=1e-2, suggest_funcs=(valley, last)
    )
    assert list(result.suggestions) == ["valley", "last"]
    assert result.suggestions["last"] == result.lrs[-6]
    assert toy_learner().lr_find(suggest_funcs=()).suggestions == {}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"start_lr": 1.0, "end_lr": 0.1},
            "0 < start_lr < end_lr but got start_lr=1.0 and end_lr=0.1",
        ),
        ({"start_lr": 1.0, "end_lr": 1.0}, "0 < start_lr < end_lr"),
        ({"start_lr": 0.0}, "0 < start_lr < end_lr"),
        ({"end_lr": math.nan}, "0 < start_lr < end_lr"),
        ({"num_it": 15}, "num_it=15 of lr_find must be at least 16"),
    ],
)
def test_invalid_arguments_are_errors(kwargs: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy_learner().lr_find(**kwargs)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            [math.nan] * 100,
            "needs 12 usable losses but got only 0 because the loss became NaN: check the data",
        ),
        (
            [1.0] * 11 + [math.nan] * 89,
            "needs 12 usable losses but got only 11 because the loss became NaN",
        ),
        (
            [1.0] + [500.0] * 99,
            "needs 17 usable losses but got only 2 because the loss diverged",
        ),
    ],
)
def test_too_few_losses_are_an_error_that_says_what_to_do(raw: list[float], message: str) -> None:
    learn = scripted_learner(raw)
    with pytest.raises(ValueError, match=message):
        learn.lr_find()
    assert learn.opt is None


def test_it_ends_even_if_a_callback_cancels_every_batch() -> None:
    class SkipAll(Callback):
        def before_batch(self, learn: Learner) -> None:
            raise CancelBatchException

    with pytest.raises(ValueError, match="batches were skipped"):
        toy_learner(cbs=[SkipAll()]).lr_find(num_it=20)


def test_plot_draws_the_curve_and_marks_the_suggestions() -> None:
    import matplotlib.pyplot as plt

    result = LRFindResult(
        tuple(10.0**i for i in range(-9, 1)), tuple(float(i) for i in range(10)), {"valley": 1e-6}
    )
    ax = result.plot()
    curve, mark = ax.lines
    assert list(curve.get_xdata()) == pytest.approx([1e-9, 1e-8, 1e-7, 1e-6, 1e-5])
    assert list(curve.get_ydata()) == [0, 1, 2, 3, 4]
    assert (float(mark.get_xdata()[0]), float(mark.get_ydata()[0])) == pytest.approx((1e-6, 3.0))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["valley: 1.00e-06"]
    assert ax.get_xscale() == "log"
    _, given = plt.subplots()
    assert result.plot(given) is given
    plt.close("all")


def test_without_matplotlib_plot_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'nntrain\[plots\]'"):
        LRFindResult((1.0,) * 10, (1.0,) * 10, {}).plot()


@pytest.mark.parametrize("own_generator", [False, True], ids=["global generator", "own generator"])
@pytest.mark.parametrize("opt_func", [torch.optim.SGD, torch.optim.Adam], ids=["SGD", "Adam"])
@pytest.mark.parametrize("fitted", [0, 1], ids=["before the first fit", "between two fits"])
def test_training_is_the_same_with_and_without_lr_find(
    own_generator: bool, opt_func: type, fitted: int
) -> None:
    assert_same_training(
        lambda: shuffled_learner(own_generator, opt_func),
        lambda learn: learn.lr_find(num_it=40),
        n_epoch_before=fitted,
    )


def test_an_error_during_the_test_leaves_no_trace() -> None:
    class FailLate(Callback):
        def __init__(self) -> None:
            self.n, self.armed = 0, False

        def after_step(self, learn: Learner) -> None:
            self.n += 1
            if self.armed and self.n > 10:
                raise OSError("disk")

    def failing_find(learn: Learner) -> None:
        cb = next(cb for cb in learn.cbs if isinstance(cb, FailLate))
        cb.armed = True
        with pytest.raises(OSError, match="disk"):
            learn.lr_find()
        cb.armed = False

    def make() -> Learner:
        return shuffled_learner(False, torch.optim.Adam).add_cb(FailLate())

    assert_same_training(make, failing_find, n_epoch_before=1)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (
            LRFindResult(
                (1e-7, 1e-3, 10.0), (3.0, 2.0, 9.0), {"valley": 0.005754, "steep": 0.1234}
            ),
            "LRFindResult(valley=0.0058, steep=0.12, 3 rates from 1e-07 to 10)",
        ),
        (LRFindResult((0.1,), (1.0,), {}), "LRFindResult(1 rates from 0.1 to 0.1)"),
        (LRFindResult((), (), {}), "LRFindResult(0 rates)"),
    ],
)
def test_it_prints_as_one_short_line(result: LRFindResult, text: str) -> None:
    assert repr(result) == str(result) == text
