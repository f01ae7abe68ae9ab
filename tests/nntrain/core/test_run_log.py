"""`RunLog` checks names immediately, and a bad value never stops training."""

import copy
import gc
import logging
import math
import re
import weakref
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure as MatplotlibFigure
from torch import Tensor

from nntrain import Callback, Learner
from nntrain.app.preflight import check_first_batch
from nntrain.core.run_log import Cell, Figure, RunLog
from nntrain.testing import counted_reads
from tests.common.toys import toy_learner

Values = Mapping[str, float | Tensor]


class MemorySink:
    """Stores in memory everything that a tracked run would record."""

    def __init__(self) -> None:
        self.is_open = True
        self.rows: list[tuple[int, Values]] = []
        self.others: list[tuple[Any, ...]] = []

    def metrics(self, values: Values, step: int) -> None:
        self.rows.append((step, values))

    def figure(self, figure: Figure, name: str, step: int) -> None:
        self.others.append(("figure", name, step))

    def table(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int
    ) -> None:
        self.others.append(("table", name, columns, rows, step))

    def artifact(self, path: Path, name: str, aliases: Sequence[str]) -> None:
        self.others.append(("artifact", path, name, aliases))


class Kept(RunLog):
    """The run log of a Learner, with all records in memory."""

    def __init__(self, learn: Learner) -> None:
        self.sink = MemorySink()
        super().__init__(learn, self.sink)

    @property
    def rows(self) -> list[tuple[int, Values]]:
        return self.sink.rows

    @property
    def others(self) -> list[tuple[Any, ...]]:
        return self.sink.others


def kept_learner(**kwargs: Any) -> tuple[Learner, Kept]:
    learn = toy_learner(**kwargs)
    kept = learn.tracker = Kept(learn)
    return learn, kept


@pytest.fixture
def pair() -> tuple[Learner, Kept]:
    return kept_learner()


def logged(kept: Kept, value: Any) -> Any:
    kept.log_metrics({"a": value})
    [(_, values)] = kept.rows
    return values["a"]


NUMBERS = [
    *(
        (1.5, 1.5),
        (True, 1.0),
        (2**70, 2.0**70),
        (math.inf, math.inf),
        (-math.inf, -math.inf),
        (np.float16(0.5), 0.5),
    ),
    *(
        (np.int64(-3), -3.0),
        (np.bool_(True), 1.0),
        (np.longdouble(2), 2.0),
        (np.array(2.5), 2.5),
        (np.array([[2.5]]), 2.5),
    ),
]


@pytest.mark.parametrize(("value", "expected"), NUMBERS, ids=repr)
def test_numbers_of_any_kind_become_floats(
    pair: tuple[Learner, Kept], value: Any, expected: float
) -> None:
    number = logged(pair[1], value)
    assert type(number) is float
    assert number == expected
    assert not pair[1].refused


@pytest.mark.parametrize("value", [math.nan, np.float32("nan"), torch.tensor(math.nan)], ids=repr)
def test_nan_is_kept(pair: tuple[Learner, Kept], value: Any) -> None:
    assert math.isnan(logged(pair[1], value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor(2.5), 2.5),
        (torch.tensor([[3]]), 3),
        (torch.tensor(True), True),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (torch.nn.Parameter(torch.tensor(4.0)), 4.0),
    ],
    ids=repr,
)
def test_tensors_of_one_element_become_scalars_and_are_not_read(
    pair: tuple[Learner, Kept], value: Tensor, expected: float
) -> None:
    with counted_reads() as reads:
        tensor = logged(pair[1], value)
    assert reads.n == 0
    assert isinstance(tensor, Tensor)
    assert (tensor.shape, tensor.requires_grad, tensor.dtype) == ((), False, value.dtype)
    assert tensor.item() == expected


def test_a_tensor_may_change_after_it_was_logged(pair: tuple[Learner, Kept]) -> None:
    learn, kept = pair
    total = torch.zeros(())
    for value in (1.0, 2.0, 3.0):
        total += value
        learn.tracker.log_metrics({"total": total})
    assert [float(values["total"]) for _, values in kept.rows] == [1.0, 3.0, 6.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_logging_does_not_wait_for_the_gpu(pair: tuple[Learner, Kept]) -> None:
    value = torch.tensor([2.5], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        tensor = logged(pair[1], value)
        pair[1].log_metrics({"two": torch.zeros(2, device="cuda")}, step=7)
        pair[1].log_metrics({"step": value}, step=torch.tensor(1, device="cuda"))  # type: ignore[arg-type]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert tensor.device.type == "cuda"
    assert pair[1].refused == {"two": 1, "step": 1}


BAD_VALUES = [
    *(
        (None, "of type NoneType"),
        ("0.5", "of type str"),
        (1j, "of type complex"),
        ({"b": 1}, "of type dict"),
        ([1.0], "of type list"),
        (10**5000, "of type int"),
    ),
    *(
        (Decimal(1), "of type Decimal"),
        (np.complex64(1j), "of type complex64"),
        (np.str_("1"), "of type str_"),
        (np.datetime64(0, "ns"), "datetime64"),
    ),
    *(
        (np.ones(2), r"of type ndarray of shape \(2,\)"),
        (torch.ones(2, 3), r"of type Tensor of shape \(2, 3\)"),
        (torch.tensor([]), "Tensor"),
    ),
    *(
        (torch.tensor(1j), r"of type Tensor of shape \(\)"),
        (torch.empty((), device="meta"), "Tensor"),
        (torch.eye(1).to_sparse(), "Tensor"),
    ),
]


@pytest.mark.parametrize(
    ("value", "described"), BAD_VALUES, ids=[described for _, described in BAD_VALUES]
)
@pytest.mark.parametrize("tracked", [True, False])
def test_a_value_that_is_not_a_number_is_skipped_and_counted_with_one_warning(
    value: Any, described: str, tracked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    learn, kept = kept_learner()
    log = kept if tracked else RunLog(learn)
    for _ in range(3):
        log.log_metrics({"good": 1.0, "bad": value}, step=4)
    assert log.refused == {"bad": 3}
    [record] = caplog.records
    assert (record.name, record.levelno) == ("nntrain", logging.WARNING)
    assert "'bad': not recorded" in record.getMessage()
    assert re.search(described, record.getMessage())
    assert kept.rows == [(4, {"good": 1.0})] * 3 * tracked


@pytest.mark.parametrize("step", [0, 7, 2**63 - 1, np.int32(7)], ids=repr)
def test_steps_may_be_any_whole_number_that_fits(pair: tuple[Learner, Kept], step: Any) -> None:
    pair[1].log_metrics({"a": 1}, step=step)
    [(at, _)] = pair[1].rows
    assert type(at) is int
    assert at == step


@pytest.mark.parametrize(
    "step",
    [-1, 2**63, 10**5000, 1.0, True, np.bool_(True), "3", torch.tensor(3)],
    ids=lambda s: type(s).__name__,
)
def test_a_bad_step_skips_every_value_of_the_call_with_one_warning(
    pair: tuple[Learner, Kept], step: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        pair[1].log_metrics({"a": 1.0, "b": None}, step=step)  # type: ignore[dict-item]
    assert pair[1].rows == []
    assert pair[1].refused == {"a": 2, "b": 2}
    [record] = caplog.records
    assert (
        f"'a', 'b': not recorded because its step, of type {type(step).__name__}"
        in record.getMessage()
    )


def test_steps_may_repeat_or_decrease_and_are_train_iter_by_default(
    pair: tuple[Learner, Kept],
) -> None:
    learn, kept = pair
    for step in (5, 5, 3):
        kept.log_metrics({"a": 1.0}, step=step)
    kept.log_metrics({"a": 1.0})
    learn.fit(1)
    kept.log_metrics({"a": 1.0})
    assert [step for step, _ in kept.rows] == [5, 5, 3, 0, 5]


@pytest.mark.parametrize("tracked", [True, False])
def test_a_bad_name_raises_at_once_and_nothing_of_the_call_is_recorded(
    pair: tuple[Learner, Kept], tracked: bool
) -> None:
    learn, kept = pair
    log = kept if tracked else RunLog(learn)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"'mem/peak\(GiB\)' must .* for example to 'mem/peak_gib'\."
        ):
            log.log_metrics({"good": 1.0, "mem/peak(GiB)": 1.5, "bad": None})  # type: ignore[dict-item]
    assert kept.rows == []
    assert not log.refused


class Logs(Callback):
    """A user's callback that logs good and bad values after each batch."""

    def after_batch(self, learn: Learner) -> None:
        learn.tracker.log_metrics({"mem/peak_gib": 1.5, "loss_now": learn.loss, "bad": "1.5"})  # type: ignore[dict-item]
        learn.tracker.log_table("t", ["a"], [[1]])


def test_a_callback_logs_each_batch_and_a_bad_value_does_not_stop_the_fit() -> None:
    learn, kept = kept_learner(cbs=[Logs()])
    learn.fit(1)
    train = [values for step, values in kept.rows][:5]
    assert [step for step, _ in kept.rows] == [1, 2, 3, 4, 5, 5, 5, 5]
    assert (
        torch.stack([torch.as_tensor(values["loss_now"]) for values in train]).tolist()
        == learn.recorder.losses.tolist()
    )
    assert all(set(values) == {"mem/peak_gib", "loss_now"} for values in train)
    assert kept.refused == {"bad": 8}


@pytest.mark.parametrize(
    "run",
    [Learner.validate, Learner.lr_find, Learner.get_preds, check_first_batch],
    ids=lambda run: run.__name__,
)
def test_outside_a_fit_names_and_values_are_checked_and_nothing_is_recorded(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class LogsAll(Callback):
        def before_batch(self, learn: Learner) -> None:
            learn.tracker.log_metrics({"a": 1.0, "bad": None})  # type: ignore[dict-item]
            learn.tracker.log_figure(MatplotlibFigure(), "a.png")
            learn.tracker.log_table("t", ["a"], [[1]])
            learn.tracker.log_artifact(__file__)
            with pytest.raises(ValueError, match="rename it"):
                learn.tracker.log_metrics({"(": 1.0})

    learn, kept = kept_learner(cbs=[LogsAll()])
    run(learn)
    assert (kept.rows, kept.others, dict(kept.refused)) == ([], [], {})
    assert [
        "'bad': not recorded" in record.getMessage()
        for record in caplog.records
        if record.name == "nntrain"
    ] == [True]


BAD_PATHS = [
    "",
    "../a.png",
    "/a.png",
    "a\0.png",
    "a\n.png",
    "a\\b.png",
    "a/../../b.png",
    "a//b.png",
]


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("name", BAD_PATHS)
def test_names_of_files_outside_the_run_are_refused(
    pair: tuple[Learner, Kept], name: str, tracked: bool
) -> None:
    learn, kept = pair
    log = kept if tracked else RunLog(learn)
    with pytest.raises(ValueError, match=r"Figure name .* must be a relative path"):
        log.log_figure(MatplotlibFigure(), name)
    with pytest.raises(ValueError, match=r"Table name .* must be a relative path"):
        log.log_table(name, ["a"], [])
    with pytest.raises(ValueError, match=r"Artifact name .* must be a relative path"):
        log.log_artifact(__file__, name)
    assert kept.others == []


def test_figures_and_tables_are_recorded_at_the_given_step(pair: tuple[Learner, Kept]) -> None:
    pair[1].log_figure(MatplotlibFigure(), "a.png", 7)
    pair[1].log_table("t", ["a"], [[1]], step=8)
    assert pair[1].others == [("figure", "a.png", 7), ("table", "t", ["a"], [[1]], 8)]
    pair[1].log_figure(MatplotlibFigure(), "b.png", -1)
    pair[1].log_table("u", ["a"], [[1]], step=1.5)  # type: ignore[arg-type]
    assert pair[1].refused == {"b.png": 1, "u": 1}


def test_an_unwritable_file_is_refused(
    pair: tuple[Learner, Kept], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pair[1].sink, "artifact", full)
    monkeypatch.setattr(pair[1].sink, "figure", full)
    pair[1].log_artifact(__file__, "a.py")
    pair[1].log_figure(MatplotlibFigure(), "a.png")
    assert pair[1].refused == {"a.py": 1, "a.png": 1}
    assert "'a.py': not recorded because it cannot be written" in caplog.text


def test_after_the_end_of_the_run_values_are_dropped_with_one_warning(
    pair: tuple[Learner, Kept], caplog: pytest.LogCaptureFixture
) -> None:
    pair[1].sink.is_open = False
    pair[1].log_metrics({"a": 1.0})
    pair[1].log_table("t", ["a"], [[1]])
    assert (pair[1].rows, pair[1].others) == ([], [])
    (record,) = caplog.records
    assert record.getMessage() == (
        "Not recorded because the run has ended: log in after_fit or earlier."
    )


def test_figures_are_recorded_at_the_step_and_need_the_name_of_an_image(
    pair: tuple[Learner, Kept],
) -> None:
    learn, kept = pair
    learn.fit(1)
    kept.log_figure(MatplotlibFigure(), "plots/loss.PNG")
    assert kept.others == [("figure", "plots/loss.PNG", 5)]
    with pytest.raises(
        ValueError,
        match=r"'plots/loss' must end in \.png, .*: rename it, for example to 'plots/loss\.png'\.",
    ):
        kept.log_figure(MatplotlibFigure(), "plots/loss")


def test_a_value_that_is_not_a_figure_does_not_stop_the_fit(
    pair: tuple[Learner, Kept], caplog: pytest.LogCaptureFixture
) -> None:
    pair[1].log_figure(None, "loss.png")  # type: ignore[arg-type]
    assert pair[1].refused == {"loss.png": 1}
    assert (
        "'loss.png': not recorded because the value, of type NoneType, is not a matplotlib figure"
        in caplog.text
    )


def test_tables_hold_numbers_strings_and_none(pair: tuple[Learner, Kept]) -> None:
    pair[1].log_table(
        "confusion",
        ("label", "n"),
        [["a", 1], ("b", None), np.array(["c", "d"]), (np.float32(0.5), True)],
    )
    rows = [["a", 1], ["b", None], ["c", "d"], [0.5, True]]
    assert pair[1].others == [("table", "confusion", ["label", "n"], rows, 0)]
    assert [type(cell) for cell in pair[1].others[0][3][3]] == [float, bool]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([["a", 1], ["b"]], "row 1 has 1 cells instead of 2"),
        (
            [["a", torch.tensor(1.0)]],
            "column 'n' of row 0 contains a value of type Tensor of shape () instead of a number",
        ),
        ([["a", [1]]], "contains a value of type list"),
    ],
)
def test_a_bad_table_does_not_stop_the_fit(
    pair: tuple[Learner, Kept], rows: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    pair[1].log_table("t", ["label", "n"], rows)
    assert pair[1].others == []
    assert pair[1].refused == {"t": 1}
    assert why in caplog.text


@pytest.mark.parametrize("columns", ["ab", ["a", "a"], ["a", 1]], ids=repr)
def test_columns_must_be_different_strings(pair: tuple[Learner, Kept], columns: Any) -> None:
    with pytest.raises(ValueError, match="of table 't' must be a list of unique strings"):
        pair[1].log_table("t", columns, [])


def test_artifacts_are_recorded_under_their_own_or_another_name(
    pair: tuple[Learner, Kept], tmp_path: Path
) -> None:
    file = tmp_path / "confusion.csv"
    file.write_text("a,b")
    pair[1].log_artifact(file)
    pair[1].log_artifact(str(file), "reports/c.csv", aliases=["best"])
    assert pair[1].others == [
        ("artifact", file, "confusion.csv", ()),
        ("artifact", file, "reports/c.csv", ("best",)),
    ]


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.csv", r"the file .*gone\.csv does not exist: write it"),
        ("folder", "folder is a folder: log its files"),
    ],
)
def test_a_missing_file_or_a_folder_is_skipped_and_counted_with_a_warning(
    pair: tuple[Learner, Kept],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    message: str,
    tracked: bool,
) -> None:
    (tmp_path / "folder").mkdir()
    log = pair[1] if tracked else RunLog(pair[0])
    log.log_artifact(tmp_path / name)
    log.log_artifact(tmp_path / name)
    assert pair[1].others == []
    assert log.refused == {name: 2}
    (record,) = caplog.records
    assert re.search(message, record.message)


def test_swapped_arguments_of_log_figure_are_refused(pair: tuple[Learner, Kept]) -> None:
    with pytest.raises(TypeError, match="log_figure expects the figure first"):
        pair[1].log_figure("mine.png", object())  # type: ignore[arg-type]


@pytest.mark.parametrize("aliases", ["best", ["a/b"], ["a:b"], [""], [1]], ids=repr)
def test_aliases_must_be_a_list_of_names(pair: tuple[Learner, Kept], aliases: Any) -> None:
    with pytest.raises(ValueError, match=r"aliases=.* must be a list of names"):
        pair[1].log_artifact(__file__, aliases=aliases)


def test_the_copy_of_a_learner_logs_at_its_own_steps() -> None:
    learn, kept = kept_learner(loss_func=torch.nn.MSELoss())
    other = copy.deepcopy(learn)
    learn.fit(1)
    other.tracker.log_metrics({"a": 1.0})
    assert other.tracker.rows == [(0, {"a": 1.0})]
    assert kept.rows == []


def test_a_deleted_learner_is_freed_at_once() -> None:
    learn = toy_learner()
    log, gone = learn.tracker, weakref.ref(learn)
    gc.disable()
    try:
        learn.fit(1)
        del learn
        assert gone() is None
    finally:
        gc.enable()
    with pytest.raises(RuntimeError, match="The Learner of this log was deleted"):
        log.log_metrics({"a": 1.0})
