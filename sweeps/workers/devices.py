"""Assigns GPUs and CPU threads to workers, before CUDA is initialized."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from nntrain.sweeps.errors import SweepError

VISIBLE = "CUDA_VISIBLE_DEVICES"

THREADS = "OMP_NUM_THREADS"
"""The environment variable for the number of CPU threads in torch; the default is all cores."""


def slots(
    gpus: Any, workers_per_gpu: int, n_jobs: int | None, available: Sequence[str] | None = None
) -> list[dict[str, str]]:
    """Returns the additional environment variables of each worker.

    Args:
        gpus: `"auto"` for all GPUs, a number of GPUs, or a list of names; `None` lets the job
            choose its devices.
        workers_per_gpu: the number of workers that share a GPU.
        n_jobs: the number of workers; `None` starts `workers_per_gpu` workers on each GPU, or one
            worker without GPUs.
        available: the GPUs of this machine, named as in `CUDA_VISIBLE_DEVICES`; `None` queries the
            driver.

    Raises:
        SweepError: if a requested GPU does not exist, or `n_jobs` workers do not fit on the GPUs.
    """
    if workers_per_gpu < 1:
        raise SweepError(f"hydra.sweeper.workers_per_gpu={workers_per_gpu} must be at least 1.")
    if n_jobs is not None and n_jobs < 1:
        raise SweepError(
            f"hydra.sweeper.n_jobs={n_jobs} must be at least 1: set the number of trials to run in "
            "parallel."
        )
    if gpus is None:
        return [{} for _ in range(n_jobs or 1)]
    known = list(visible_devices(os.environ)) if available is None else list(available)
    if gpus == "auto" and not known:
        return [{} for _ in range(n_jobs or 1)]
    places = [{VISIBLE: name} for name in _chosen(gpus, known) for _ in range(workers_per_gpu)]
    if n_jobs is not None and n_jobs > len(places):
        raise SweepError(
            f"hydra.sweeper.n_jobs={n_jobs} workers do not fit on "
            f"{len(places) // workers_per_gpu} GPUs with workers_per_gpu={workers_per_gpu}: "
            "decrease n_jobs or increase workers_per_gpu."
        )
    spread = [
        places[i]
        for first in range(workers_per_gpu)
        for i in range(first, len(places), workers_per_gpu)
    ]
    return spread[: n_jobs or len(spread)]


def _chosen(gpus: Any, available: list[str]) -> list[str]:
    if gpus == "auto":
        return available
    if isinstance(gpus, bool) or not isinstance(gpus, int | str | Sequence):
        raise SweepError(
            f"hydra.sweeper.gpus={gpus} must be auto, a number of GPUs, a list of GPUs, or null."
        )
    if not available:
        raise SweepError(f"hydra.sweeper.gpus={gpus} must be null: this machine has no GPU.")
    if isinstance(gpus, int):
        if not 1 <= gpus <= len(available):
            raise SweepError(
                f"hydra.sweeper.gpus={gpus} must be from 1 to {len(available)}: this machine has "
                f"the GPUs {', '.join(available)}."
            )
        return available[:gpus]
    names = (
        [name.strip() for name in gpus.split(",")]
        if isinstance(gpus, str)
        else [str(name) for name in gpus]
    )
    if not names:
        raise SweepError(
            "hydra.sweeper.gpus is empty: set auto, a number of GPUs, a list of GPUs, or null."
        )
    for name in names:
        if name not in available:
            raise SweepError(
                f"hydra.sweeper.gpus: this machine has no GPU {name}, choose from "
                f"{', '.join(available)}."
            )
    return names


def n_cores() -> int:
    """Returns the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # missing on macOS
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def threads(n_jobs: int, cores: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Returns environment variables that divide the cores equally among the workers.

    The result is empty for a single worker, or if the user has set the number of threads.
    """
    return {} if n_jobs == 1 or THREADS in environ else {THREADS: str(max(1, cores // n_jobs))}


def visible_devices(environ: Mapping[str, str]) -> Sequence[str]:
    """Returns the GPUs that this process may use, without initializing CUDA.

    These are the GPUs in `CUDA_VISIBLE_DEVICES`. If this variable is not set, the result contains
    all GPUs that the driver reports.
    """
    if environ.get(VISIBLE) is not None:
        return [name.strip() for name in environ[VISIBLE].split(",") if name.strip()]
    try:
        pynvml = importlib.import_module("pynvml")
        pynvml.nvmlInit()
        return [str(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except ImportError:
        return _count_by_files()
    except pynvml.NVMLError:  # no driver, or no GPU
        return []


def _count_by_files() -> list[str]:
    """Returns the GPUs for which the driver created device files in `/dev`."""
    names = (
        name.removeprefix("nvidia") for name in os.listdir("/dev") if name.startswith("nvidia")
    )
    return sorted((name for name in names if name.isdigit()), key=int)
