"""The assignment of GPUs to workers."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.workers.devices import THREADS, VISIBLE, slots, threads, visible_devices

FOUR = ["0", "1", "2", "3"]


def placed(gpus: Any, per_gpu: int, n_jobs: int | None, available: list[str]) -> list[str]:
    """Returns the device of each worker; `-` means that the job chooses the device."""
    return [slot.get(VISIBLE, "-") for slot in slots(gpus, per_gpu, n_jobs, available)]


@pytest.mark.parametrize(
    ("gpus", "per_gpu", "n_jobs", "available", "expected"),
    [
        (None, 1, None, FOUR, "-"),
        (None, 1, 3, FOUR, "---"),
        (None, 2, None, FOUR, "-"),
        ("auto", 1, None, FOUR, "0123"),
        ("auto", 1, 2, FOUR, "01"),
        ("auto", 2, None, ["0", "1"], "0101"),
        ("auto", 2, 3, ["0", "1"], "010"),
        ("auto", 3, None, ["0"], "000"),
        ("auto", 1, None, [], "-"),
        ("auto", 2, 3, [], "---"),
        (2, 1, None, FOUR, "01"),
        (1, 2, None, FOUR, "00"),
        ([3, 1], 1, None, FOUR, "31"),
        (["3", "1"], 2, None, FOUR, "3131"),
        (OmegaConf.create([2]), 1, None, FOUR, "2"),
        ("2,3", 1, None, FOUR, "23"),
        ("1", 1, None, FOUR, "1"),
    ],
)
def test_each_worker_has_a_device(
    gpus: Any, per_gpu: int, n_jobs: int | None, available: list[str], expected: str
) -> None:
    assert placed(gpus, per_gpu, n_jobs, available) == list(expected)


def test_a_device_may_have_a_name() -> None:
    names = ["GPU-5e1f", "MIG-77"]
    assert placed("auto", 1, None, names) == names
    assert placed(["MIG-77"], 1, None, names) == ["MIG-77"]


MISTAKES: list[tuple[Any, int, int | None, list[str], str]] = [
    (
        5,
        1,
        None,
        FOUR,
        "hydra.sweeper.gpus=5 must be from 1 to 4: this machine has the GPUs 0, 1, 2, 3.",
    ),
    (1, 1, None, [], "hydra.sweeper.gpus=1 must be null: this machine has no GPU."),
    (0, 1, None, FOUR, "hydra.sweeper.gpus=0 must be from 1 to 4"),
    (
        [0, 7],
        1,
        None,
        FOUR,
        "hydra.sweeper.gpus: this machine has no GPU 7, choose from 0, 1, 2, 3.",
    ),
    ("all", 1, None, FOUR, "hydra.sweeper.gpus: this machine has no GPU all"),
    ([], 1, None, FOUR, "hydra.sweeper.gpus is empty"),
    (
        True,
        1,
        None,
        FOUR,
        "hydra.sweeper.gpus=True must be auto, a number of GPUs, a list of GPUs, or null.",
    ),
    (1.5, 1, None, FOUR, "hydra.sweeper.gpus=1.5 must be auto"),
    (
        "auto",
        2,
        9,
        FOUR,
        "hydra.sweeper.n_jobs=9 workers do not fit on 4 GPUs with workers_per_gpu=2",
    ),
    (None, 0, None, FOUR, "hydra.sweeper.workers_per_gpu=0 must be at least 1."),
    (None, 1, 0, FOUR, "hydra.sweeper.n_jobs=0 must be at least 1"),
]


@pytest.mark.parametrize(("gpus", "per_gpu", "n_jobs", "available", "message"), MISTAKES)
def test_impossible_devices_are_an_error(
    gpus: Any, per_gpu: int, n_jobs: int | None, available: list[str], message: str
) -> None:
    with pytest.raises(SweepError) as caught:
        slots(gpus, per_gpu, n_jobs, available)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", []), ("0", ["0"]), ("1, 3", ["1", "3"]), ("GPU-5e1f", ["GPU-5e1f"])],
)
def test_cuda_visible_devices_limits_the_devices(value: str, expected: list[str]) -> None:
    assert visible_devices({VISIBLE: value}) == expected


def test_without_cuda_visible_devices_the_driver_is_asked() -> None:
    found = visible_devices({})
    assert all(name.isdigit() for name in found)
    assert len(found) == len(set(found))


@pytest.mark.gpu
def test_the_driver_lists_every_device_that_torch_does() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    assert len(visible_devices({})) == torch.cuda.device_count()


@pytest.mark.parametrize(
    ("n_jobs", "n_cores", "environ", "expected"),
    [
        (1, 8, {}, {}),
        (2, 8, {}, {THREADS: "4"}),
        (3, 8, {}, {THREADS: "2"}),
        (9, 8, {}, {THREADS: "1"}),
        (2, 8, {THREADS: "7"}, {}),
    ],
)
def test_workers_share_the_cores(
    n_jobs: int, n_cores: int, environ: dict[str, str], expected: dict[str, str]
) -> None:
    assert threads(n_jobs, n_cores, environ) == expected
