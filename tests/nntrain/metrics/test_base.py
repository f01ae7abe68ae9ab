from typing import Any

import pytest
from torchmetrics import regression

from nntrain.metrics import (
    AccumMetric,
    AvgLoss,
    AvgMetric,
    AvgSmoothLoss,
    AvgSmoothMetric,
    accuracy,
    mae,
    rmse,
)
from tests.common.toys import toy_learner


@pytest.mark.parametrize("part", ["train", "valid", "both"])
@pytest.mark.parametrize("make", [AvgMetric, AvgSmoothMetric, AccumMetric])
def test_a_metric_is_recorded_on_its_part_only(make: Any, part: str) -> None:
    learn = toy_learner(metrics=[make(mae, name="m", part=part)])
    learn.fit(2)
    parts = ["train", "valid"] if part == "both" else [part]
    recorded = [name for name in learn.recorder.metric_names if name.endswith("/m")]
    assert recorded == [f"{name}/m" for name in parts]
    assert all(set(row) == set(learn.recorder.metric_names) for row in learn.recorder.rows)


def test_each_kind_of_metric_is_recorded_in_its_default_part() -> None:
    learn = toy_learner(
        metrics=[
            mae,
            rmse,
            regression.MeanSquaredError(),
            AvgSmoothLoss(),
            lambda pred, target: pred.mean(),
        ]
    )
    learn.fit(1)
    assert [
        name for name in learn.recorder.metric_names if not name.startswith(("time/", "epoch"))
    ] == [
        *("train/loss", "train/mae", "train/loss_smooth", "train/lambda"),
        *("valid/loss", "valid/mae", "valid/rmse", "valid/mean_squared_error", "valid/lambda"),
    ]


NAMES = [
    "f1",
    "f1 macro",
    "f1/macro",
    "a.b-c_d:e",
    "F1 (macro)",
    "acc%",
    "a//b",
    "/a",
    "a/",
    "./a",
    "a/../b",
    "",
    "a,b",
    "é",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_refused_where_mlflow_refuses_it(name: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_metric_name

    def refuses(name: str) -> bool:
        try:
            _validate_metric_name(f"valid/{name}")  # type: ignore[no-untyped-call]
        except MlflowException:
            return True
        return False

    metric = AvgLoss(name="fine")
    if refuses(name):
        with pytest.raises(ValueError, match="rename it, for example to '") as caught:
            metric.name = name
        suggestion = str(caught.value).split("'")[-2]
        assert not refuses(suggestion)
        metric.name = suggestion
    else:
        metric.name = name
        assert metric.name == name


def test_a_bad_name_is_refused_at_creation() -> None:
    with pytest.raises(
        ValueError,
        match=r"'F1 \(macro\)' must consist of letters, .*: rename it, for example to 'f1_macro'\.",
    ):
        AvgMetric(accuracy, name="F1 (macro)")


@pytest.mark.parametrize("options", [{"part": "test"}, {"activation": "relu"}])
def test_an_unknown_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError,
        match=r"must be ('train', 'valid' or 'both'|one of no, softmax, sigmoid, binary_softmax)",
    ):
        AccumMetric(accuracy, **options)
