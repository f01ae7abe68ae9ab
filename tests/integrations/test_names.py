"""Names that every tracker takes."""

import pytest

from nntrain.integrations.names import metric_key


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train/loss", "train/loss"),
        ("mem/peak(GiB)", "mem/peak_GiB_"),
        ("a//b", "a/b"),
        ("/a/", "a"),
        ("f1 macro-avg.x:y", "f1 macro-avg.x:y"),
        ("loss=1#2", "loss_1_2"),
    ],
)
def test_a_metric_key_holds_only_what_mlflow_allows(name: str, expected: str) -> None:
    assert metric_key(name) == expected
