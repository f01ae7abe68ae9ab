"""The output of a fit: lines, and bars on a terminal."""

import re
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from nntrain import AvgMetric, Callback, CancelFitException, Event, Learner, StopReason
from nntrain.callbacks import Progress
from nntrain.callbacks.progress import _duration, _number
from nntrain.testing import RaiseAt, counted_reads
from tests.common.toys import regression_lists, toy_learner

HEADING = "epoch  train/loss  valid/loss     time"


def _console(*, terminal: bool = False, width: int = 80, file: StringIO | None = None) -> Console:
    interactive = (
        {"force_terminal": True, "force_interactive": True, "_environ": {"TERM": "xterm"}}
        if terminal
        else {}
    )
    return Console(file=file or StringIO(), width=width, **interactive)


def _fit(n_epoch: int, console: Console, *cbs: Callback, **kwargs: Any) -> str:
    learn = toy_learner(cbs=[Progress(interval_s=0, console=console), *cbs], **kwargs)
    learn.fit(n_epoch)
    return _text(console)


def _text(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_output_is_one_header_and_one_row_per_epoch() -> None:
    lines = _fit(3, _console()).splitlines()
    assert lines[0] == HEADING
    assert [
        re.sub(r"\d+\.\d{6}", "x", re.sub(r"\d+\.\ds", "t", line)).split() for line in lines[1:]
    ] == [
        ["0", "x", "x", "t"],
        ["1", "x", "x", "t"],
        ["2", "x", "x", "t"],
    ]
    assert {len(line) for line in lines} == {len(HEADING)}


def test_numbers_are_those_of_the_recorder() -> None:
    console = _console()
    learn = toy_learner(cbs=[Progress(console=console)])
    learn.fit(1)
    row = learn.recorder.row
    assert _text(console).splitlines()[1].split()[1:3] == [
        f"{row['train/loss']:.6f}",
        f"{row['valid/loss']:.6f}",
    ]


def test_progress_prints_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    toy_learner(cbs=[Progress()]).fit(1)
    assert capsys.readouterr().out.splitlines()[0] == HEADING


class CutValidation(Callback):
    """Cancels the validation of epoch 0."""

    def before_epoch(self, learn: Learner) -> None:
        learn.dls = regression_lists()
        if learn.epoch == 0:
            learn.dls.valid = None


def test_new_columns_print_a_new_header_and_missing_values_are_blank() -> None:
    class CutAgain(CutValidation):
        def before_epoch(self, learn: Learner) -> None:
            super().before_epoch(learn)
            if learn.epoch == 3:
                learn.dls.valid = None

    lines = _fit(4, _console(), CutAgain()).splitlines()
    assert [lines[0], lines[2]] == ["epoch  train/loss     time", HEADING]
    assert len(lines) == 6
    loss, blank = lines[5][7:17], lines[5][19:29]
    assert float(loss) > 0
    assert blank == " " * 10
    assert len(lines[5]) == len(HEADING)


def _zero(pred: Tensor, target: Tensor) -> Tensor:
    return pred.new_zeros(())


def test_losses_come_before_metrics_and_long_lines_are_not_broken() -> None:
    metrics = [AvgMetric(_zero, name=f"a_metric_with_a_long_name_{i}") for i in range(4)]
    lines = _fit(2, _console(width=80), metrics=metrics).splitlines()
    assert len(lines) == 3
    assert lines[0].split()[:4] == [
        "epoch",
        "train/loss",
        "valid/loss",
        "train/a_metric_with_a_long_name_0",
    ]
    assert lines[0].split()[-1] == "time"
    assert len(lines[0]) > 200


def test_brackets_in_a_message_are_printed_as_they_are() -> None:
    cancel = CancelFitException("lr [bold]1e-3[/bold] :smile:", reason=StopReason.PRUNED)
    assert "in epoch 0: lr [bold]1e-3[/bold] :smile:" in _fit(
        1, _console(), RaiseAt(Event.AFTER_BATCH, cancel)
    )


@pytest.mark.parametrize(
    ("reason", "message", "event", "line"),
    [
        (
            StopReason.EARLY_STOPPED,
            "no gain",
            Event.AFTER_EPOCH,
            "stopped early after epoch 1: no gain",
        ),
        (StopReason.PRUNED, "", Event.AFTER_EPOCH, "pruned after epoch 1"),
        (
            StopReason.DIVERGED,
            "the loss is NaN",
            Event.AFTER_LOSS,
            "diverged in epoch 1: the loss is NaN",
        ),
        (
            StopReason.BUDGET,
            "60 s are over",
            Event.AFTER_BATCH,
            "stopped: out of budget in epoch 1: 60 s are over",
        ),
        (
            StopReason.INTERRUPTED,
            "SIGTERM was received",
            Event.AFTER_BATCH,
            "interrupted in epoch 1: SIGTERM was received",
        ),
    ],
)
@pytest.mark.parametrize("terminal", [False, True])
def test_cancelled_fit_says_why_and_where(
    reason: StopReason, message: str, event: Event, line: str, terminal: bool
) -> None:
    class Cancel(RaiseAt):
        order = 70

    lines = _screen(
        _fit(
            3,
            _console(terminal=terminal),
            Cancel(event, CancelFitException(message, reason=reason), epoch=1),
        )
    )
    rows = [row.split()[0] for row in lines[1:-1]]
    assert lines[-1] == line
    assert rows == (["0", "1"] if event is Event.AFTER_EPOCH else ["0"])


def test_fit_cancelled_before_its_start_says_so() -> None:
    console, cancel = _console(), CancelFitException("no time", reason=StopReason.BUDGET)
    assert (
        _fit(2, console, RaiseAt(Event.BEFORE_FIT, cancel))
        == "stopped: out of budget in epoch 0: no time\n"
    )


def _screen(text: str) -> list[str]:
    """Returns the lines that a terminal shows; handles only the control codes of the bars."""
    lines, row = [""], 0
    for token in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if token == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif token.endswith("A") and token.startswith("\x1b"):
            row -= int(token[2:-1] or 1)
        elif token == "\x1b[2K":
            lines[row] = ""
        elif not token.startswith(("\x1b", "\r")):
            lines[row] += token
    return [line for line in lines if line]


def test_terminal_shows_bars_while_the_fit_runs() -> None:
    seen: list[list[str]] = []
    console = _console(terminal=True)

    class Look(Callback):
        order = 95

        def after_batch(self, learn: Learner) -> None:
            seen.append(_screen(_text(console)))

    _fit(2, console, Look())
    train, valid = seen[3], seen[6]
    assert train[-2].split()[0] == "epoch"
    assert " 0/2 " in train[-2]
    assert train[-1].split()[0] == "train"
    assert re.search(r" 4/5 .* loss \d\.\d{6}", train[-1])
    assert valid[-1].split()[0] == "valid"
    assert " 2/3 " in valid[-1]
    assert [line.split()[0] for line in seen[-1]] == ["epoch", "0", "epoch", "valid"]
    assert max(len(line) for lines in seen for line in lines) <= 80


@pytest.mark.parametrize("n_epoch", [2, 40])
def test_the_bars_are_erased_from_the_terminal(n_epoch: int) -> None:
    text = _fit(n_epoch, _console(terminal=True))
    assert [line.split()[0] for line in _screen(text)] == ["epoch", *map(str, range(n_epoch))]
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor stays hidden"


@pytest.mark.parametrize("err", [ValueError("boom"), KeyboardInterrupt()])
@pytest.mark.parametrize("event", [Event.BEFORE_TRAIN, Event.AFTER_LOSS, Event.AFTER_EPOCH])
def test_terminal_is_restored_after_an_error(err: BaseException, event: Event) -> None:
    console = _console(terminal=True)
    with pytest.raises(type(err)):
        _fit(3, console, RaiseAt(event, err, epoch=1))
    assert [line.split()[0] for line in _screen(_text(console))] == ["epoch", "0"]
    assert _text(console).rindex("\x1b[?25h") > _text(console).rindex("\x1b[?25l")


def test_loader_without_a_length_is_shown_with_its_count() -> None:
    class Stream:
        def __iter__(self) -> Any:
            return iter(regression_lists().train)

    dls = regression_lists()
    dls.train = Stream()
    assert "m5/?\x1b" in _fit(1, _console(terminal=True), dls=dls)


def test_loss_is_read_only_when_the_bars_are_drawn() -> None:
    def reads(console: Console, interval_s: float) -> int:
        learn = toy_learner(
            regression_lists(n_train=800), cbs=[Progress(interval_s, console=console)]
        )
        with counted_reads() as counter:
            learn.fit(1)
        return counter.n

    without = reads(_console(), 0)
    assert reads(_console(terminal=True), 1000) == without + 1
    assert reads(_console(terminal=True), 0) == without + 100 + 3


def test_smoothed_loss_is_the_recorders() -> None:
    console = _console(terminal=True)
    learn = toy_learner(cbs=[Progress(0, console=console)])
    learn.fit(2)
    shown = re.findall(r"loss (\d\.\d{6})", _text(console))
    assert [float(loss) for loss in dict.fromkeys(shown)] == pytest.approx(
        learn.recorder.smooth_losses.tolist(), abs=1e-6
    )


def test_showing_progress_does_not_change_training() -> None:
    plain, shown = toy_learner(), toy_learner(cbs=[Progress(0, console=_console(terminal=True))])
    plain.fit(2)
    shown.fit(2)
    assert torch.equal(plain.recorder.losses, shown.recorder.losses)


def test_second_fit_begins_a_new_table() -> None:
    console = _console()
    learn = toy_learner(cbs=[Progress(console=console)])
    learn.fit(1)
    learn.fit(1)
    assert _text(console).count(HEADING) == 2


def _validate(learn: Learner) -> None:
    learn.validate()


def _find_lr(learn: Learner) -> None:
    learn.lr_find(num_it=16)


@pytest.mark.parametrize("run", [_validate, _find_lr])
def test_only_a_fit_is_shown(run: Callable[[Learner], None]) -> None:
    console = _console(terminal=True)
    run(toy_learner(cbs=[Progress(console=console)]))
    assert _text(console) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000000"),
        (2.3025851, "2.302585"),
        (-12.5, "-12.500000"),
        (0.0001, "0.000100"),
        (0.00001234, "1.234e-05"),
        (1234567.0, "1.235e+06"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_number_fits_ten_characters(value: float, text: str) -> None:
    assert _number(value) == text
    assert len(text) <= 10


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0s"),
        (59.94, "59.9s"),
        (59.96, "1:00"),
        (61, "1:01"),
        (3599.6, "1:00:00"),
        (86400, "24:00:00"),
    ],
)
def test_duration_has_the_unit_that_suits(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


@pytest.mark.parametrize("kwargs", [{"interval_s": -1}, {"beta": 1.0}])
def test_invalid_settings_are_refused(kwargs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        Progress(**kwargs)


def test_cleanup_without_a_fit_is_harmless() -> None:
    Progress().cleanup_fit(toy_learner())
