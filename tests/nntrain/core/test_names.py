"""Names that every tracker accepts."""

import re
import subprocess
import sys
from itertools import combinations

import pytest

from nntrain.core.names import (
    MAX_LENGTH,
    Keys,
    check_file_name,
    check_metric_name,
    metric_key,
    suggestion,
)


def mlflow_accepts(name: str) -> bool:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_metric

    try:
        _validate_metric(name, 1.0, 0, 0)  # type: ignore[no-untyped-call]
    except MlflowException:
        return False
    return True


def is_valid(name: str, prefix: str = "") -> bool:
    try:
        check_metric_name(name, prefix)
    except ValueError:
        return False
    return True


NAMES = [
    *(
        "loss",
        "train/loss",
        "f1 macro-avg.x:y",
        "é",
        "Ünïcode/日本",
        "a.b/..c",
        "a...",
        " a ",
        "lr/0",
        "x" * 250,
        "a/" * 124 + "b",
    ),
    *(
        "mem/peak(GiB)",
        "acc (%)",
        "a\n",
        "a\nb",
        "a\tb",
        "a\0",
        "a\\b",
        "loss=1#2",
        "a,b",
        "🙂",
        "a\ud800",
        "\u0307",
        "İ(x)",
    ),
    *(
        "",
        "/",
        ".",
        "..",
        "../",
        "../a",
        "..a",
        "a/..",
        "a/../b",
        "./a",
        "a/.",
        "a//b",
        "/a",
        "//a",
        "a/",
        "x" * 251,
        "(" * 300,
    ),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_is_valid_if_mlflow_accepts_it_except_for_a_trailing_newline(name: str) -> None:
    assert is_valid(name) == (mlflow_accepts(name) and name != "a\n")


@pytest.mark.parametrize("name", ["train_iter", "_step", "_timestamp", "_runtime", "_x/y"])
def test_names_reserved_by_wandb_are_refused(name: str) -> None:
    assert mlflow_accepts(name)
    assert not is_valid(name)
    assert is_valid(name, "valid/")


@pytest.mark.parametrize("prefix", ["", "valid/"])
@pytest.mark.parametrize("name", [*NAMES, "train_iter", "_step", "__"], ids=ascii)
def test_a_suggested_name_is_valid(name: str, prefix: str) -> None:
    assert is_valid(suggestion(name, prefix), prefix)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mem/peak(GiB)", "mem/peak_gib"),
        ("accuracy (%)", "accuracy"),
        ("Wait (ms)/P 99,9%", "wait_ms/p_99_9"),
        ("a/../b", "a/b"),
        ("_step", "step"),
        ("train_iter", "train_iter_2"),
        ("", "metric"),
        ("é(Å)", "é_å"),
    ],
)
def test_the_suggestion_is_lower_case_with_units_as_suffixes(name: str, expected: str) -> None:
    assert suggestion(name) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mem/peak(GiB)",
            r"'mem/peak\(GiB\)' must consist of letters, .* by single slashes: rename it, "
            r"for example to 'mem/peak_gib'\.",
        ),
        (
            "x" * 251,
            r"' must have at most 250 characters, .*: rename it, for example to 'x+_[0-9a-f]{8}'\.",
        ),
        ("train_iter", r"'train_iter' is reserved for the step: rename it"),
        (
            "_step",
            r"'_step' must not start with an underscore, .*: rename it, for example to 'step'\.",
        ),
        (7, r"Metric name 7 must be a string: rename it, for example to '7'\."),
    ],
)
def test_the_message_has_the_key_the_rule_it_breaks_and_a_valid_name(
    name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_metric_name(name)
    assert "\n" not in str(caught.value)


def test_a_prefix_counts_toward_the_length_of_a_name() -> None:
    assert is_valid("x" * (MAX_LENGTH - 6), "valid/")
    assert not is_valid("x" * (MAX_LENGTH - 5), "valid/")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train/loss", "train/loss"),
        ("mem/peak(GiB)", "mem/peak_GiB_"),
        ("a//b", "a/b"),
        ("/a/", "a"),
        ("f1 macro-avg.x:y", "f1 macro-avg.x:y"),
        ("loss=1#2", "loss_1_2"),
        ("a/../b", "a/__/b"),
        ("..a", "__a"),
        ("", "_"),
    ],
)
def test_a_metric_key_contains_only_characters_that_mlflow_allows(name: str, expected: str) -> None:
    assert metric_key(name) == expected


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_mlflow_accepts_every_metric_key_and_a_valid_name_is_its_own_key(name: str) -> None:
    assert mlflow_accepts(metric_key(name))
    assert not is_valid(name) or metric_key(name) == name


def test_long_names_that_differ_only_at_their_end_get_different_keys() -> None:
    one, other = metric_key("x" * 300 + "1"), metric_key("x" * 300 + "2")
    assert one != other
    assert len(one) == len(other) == MAX_LENGTH
    assert one[:241] == "x" * 241


def test_different_names_get_different_keys() -> None:
    names = [
        *NAMES,
        "a(",
        "a)",
        "a_",
        "a__2",
        "a%",
        "train_iter",
        "train(iter",
        "x" * 249 + "(",
        "x" * 249 + ")",
    ]
    keys = Keys()
    made = [keys[name] for name in names]
    assert [keys[name] for name in names] == made
    assert [pair for pair in combinations(made, 2) if pair[0] == pair[1]] == []
    assert [key for key in made if not mlflow_accepts(key)] == []


def test_later_names_with_the_same_key_are_numbered() -> None:
    keys = Keys()
    assert [keys[name] for name in ("a(", "a)", "a_", "a(", "train_iter", "b")] == [
        "a_",
        "a__2",
        "a__3",
        "a_",
        "train_iter_2",
        "b",
    ]


GOOD_FILES = ["loss.png", "plots/loss.png", "a b (1).csv", "é.csv", ".hidden", "a..b", "x" * 250]
BAD_FILES = [
    "",
    ".",
    "..",
    "../a.csv",
    "a/../../b",
    "a/..",
    "..a",
    "/etc/passwd",
    "//a",
    "a//b",
    "a/",
    "a\0b",
    "a\nb",
    "a\\b",
]
BAD_FILES += [
    "C:/a",
    "a%2e%2e/b",
    "a#b",
    "a?b",
    "x" * 251,
    "é" * 126 + ".png",
    "a\udcff",
    "..",
    "...(",
    "(:/:",
]


@pytest.mark.parametrize("name", GOOD_FILES)
def test_a_relative_path_is_a_valid_file_name(name: str) -> None:
    check_file_name(name, "Artifact")


@pytest.mark.parametrize("name", BAD_FILES, ids=ascii)
def test_a_path_outside_the_run_is_refused_and_a_valid_one_suggested(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"Artifact name .* must be a relative path .* for example to '.*'\."
    ) as caught:
        check_file_name(name, "Artifact")
    message = str(caught.value)
    assert repr(name) in message
    [suggested] = re.findall(r"for example to '(.*)'\.", message)
    check_file_name(suggested, "Artifact")


@pytest.mark.parametrize("name", GOOD_FILES)
def test_mlflow_and_wandb_accept_every_valid_file_name(name: str) -> None:
    from mlflow.store.artifact.artifact_repo import verify_artifact_path
    from mlflow.utils.uri import validate_path_is_safe
    from wandb.sdk.artifacts._validators import validate_artifact_path

    verify_artifact_path(name)  # type: ignore[no-untyped-call]
    assert validate_path_is_safe(name) == name  # type: ignore[no-untyped-call]
    assert validate_artifact_path(name) == name


def test_the_module_does_not_import_torch() -> None:
    code = "import sys, nntrain.core.names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
